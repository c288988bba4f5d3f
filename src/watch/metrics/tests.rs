use prometheus::TextEncoder;

use super::*;
use crate::store::gauges::MeshReading;

fn registered() -> (Registry, Metrics) {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).expect("register");
    (registry, metrics)
}

fn text(registry: &Registry) -> String {
    TextEncoder::new().encode_to_string(&registry.gather()).expect("text")
}

/// Asserts that the exposition has this line.
#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "no line {line:?} in\n{text}");
}

#[test]
fn every_name_is_ours_or_the_processs() {
    let (registry, metrics) = registered();
    metrics.set_agents([("planner", "pc", true)]).expect("agents");
    for family in registry.gather() {
        let name = family.name();
        assert!(name.starts_with("postbell_") || name.starts_with("process_"), "{name}");
        assert!(family.help().len() > 10, "{name} explains nothing");
    }
}

#[test]
fn every_series_exists_before_the_first_event() {
    let (registry, _metrics) = registered();
    let text = text(&registry);
    for reason in ["nack", "deadline", "disconnect"] {
        has(&text, &format!("postbell_failed_total{{reason=\"{reason}\"}} 0"));
    }
    for reason in ["max_attempts", "rejected", "payload_too_large", "unreadable"] {
        has(&text, &format!("postbell_dead_total{{reason=\"{reason}\"}} 0"));
    }
    for reason in CloseReason::all().map(CloseReason::as_str) {
        has(&text, &format!("postbell_closed_total{{reason=\"{reason}\"}} 0"));
    }
    for code in ["forbidden", "slow_down"] {
        has(&text, &format!("postbell_sends_refused_total{{code=\"{code}\"}} 0"));
    }
    for priority in Priority::all() {
        has(&text, &format!("postbell_ready{{priority=\"{priority}\"}} 0"));
        has(&text, &format!("postbell_oldest_ready_timestamp_seconds{{priority=\"{priority}\"}} 0"));
    }
    for plain in
        ["published_total", "pushed_total", "acked_total", "expired_total", "in_flight", "links", "sessions"]
    {
        has(&text, &format!("postbell_{plain} 0"));
    }
    for plain in ["unknown_recipient", "agents_known", "agents_connected", "bell_armed", "bell_rings_total"] {
        has(&text, &format!("postbell_{plain} 0"));
    }
    for plain in ["alerts_raised_total", "alerts_escalated_total", "agent_metrics_dropped"] {
        has(&text, &format!("postbell_{plain} 0"));
    }
    for plain in
        ["tls_expires_timestamp_seconds", "tls_reload_failures_total", "broker_ready", "unsettled", "inboxes"]
    {
        has(&text, &format!("postbell_{plain} 0"));
    }
    for plain in [
        "leases_lost_total",
        "unseen_total",
        "tail_late_total",
        "tail_rows_total",
        "router",
        "routed_total",
        "database_up",
        "notify_queue_ratio",
        "longest_wait_seconds",
    ] {
        has(&text, &format!("postbell_{plain} 0"));
    }
    for histogram in
        ["delivery_seconds", "wait_seconds", "handling_seconds", "bell_roundtrip_seconds", "settle_batch"]
    {
        has(&text, &format!("postbell_{histogram}_count 0"));
    }
    has(&text, "postbell_delivery_seconds_bucket{le=\"5\"} 0");
    has(&text, "postbell_wait_seconds_bucket{le=\"5\"} 0");
    for condition in CONDITIONS {
        has(&text, &format!("postbell_condition_ok{{condition=\"{condition}\"}} 0"));
    }
    for duty in Duty::ALL {
        has(&text, &format!("postbell_standstill_seconds{{duty=\"{}\"}} 0", duty.as_str()));
    }
    assert!(text.contains("postbell_build_info{") && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    #[cfg(target_os = "linux")]
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
}

#[test]
fn every_event_adds_to_a_series_that_was_there() {
    let (registry, metrics) = registered();
    let count = |registry: &Registry| registry.gather().iter().map(|f| f.get_metric().len()).sum::<usize>();
    let before = count(&registry);
    FailReason::ALL.iter().for_each(|r| metrics.failed(*r));
    DeadReason::ALL.iter().for_each(|r| metrics.dead(*r));
    CloseReason::all().for_each(|r| metrics.closed(r));
    // These are no reasons to close, and none of them makes a series.
    ErrorCode::ALL.iter().filter(|c| !c.is_fatal()).for_each(|c| metrics.closed(CloseReason::Refused(*c)));
    assert_eq!(count(&registry), before);
    let text = text(&registry);
    has(&text, "postbell_failed_total{reason=\"deadline\"} 1");
    has(&text, "postbell_dead_total{reason=\"rejected\"} 1");
    has(&text, "postbell_closed_total{reason=\"taken_over\"} 1");
    has(&text, "postbell_closed_total{reason=\"bye\"} 1");
}

#[test]
fn what_is_ready_is_replaced() {
    let (registry, metrics) = registered();
    let one = Priority::new(1).expect("priority");
    metrics.set_ready(&[(one, 7, 1_700_000_000.5)]);
    has(&text(&registry), "postbell_ready{priority=\"1\"} 7");
    has(&text(&registry), "postbell_oldest_ready_timestamp_seconds{priority=\"1\"} 1700000000.5");
    metrics.set_ready(&[]);
    has(&text(&registry), "postbell_ready{priority=\"1\"} 0");
    has(&text(&registry), "postbell_oldest_ready_timestamp_seconds{priority=\"1\"} 0");
}

#[test]
fn agents_come_and_go() {
    let (registry, metrics) = registered();
    metrics.set_agents([("planner", "pc", true), ("od\"d\n", "railway", false)]).expect("agents");
    let first = text(&registry);
    has(&first, "postbell_agent_connected{agent=\"planner\",environment=\"pc\"} 1");
    has(&first, "postbell_agent_connected{agent=\"od\\\"d\\n\",environment=\"railway\"} 0");
    has(&first, "postbell_agents_known 2");
    has(&first, "postbell_agents_connected 1");
    metrics.set_agents([("planner", "pc", false)]).expect("agents");
    let second = text(&registry);
    has(&second, "postbell_agent_connected{agent=\"planner\",environment=\"pc\"} 0");
    assert!(!second.contains("railway"), "{second}");
}

#[test]
fn above_the_bound_only_the_sums_remain() {
    let (registry, metrics) = registered();
    let agents = |n: usize| (0..n).map(|i| (format!("agent-{i}"), "pc", i % 2 == 0));
    let series = || text(&registry).lines().filter(|l| l.starts_with("postbell_agent_connected{")).count();
    metrics.set_agents(agents(AGENTS_MAX)).expect("agents");
    assert_eq!(series(), 1_000);
    metrics.set_agents(agents(AGENTS_MAX + 1)).expect("agents");
    assert_eq!(series(), 0);
    has(&text(&registry), "postbell_agents_known 1001");
    has(&text(&registry), "postbell_agents_connected 501");
    // The series return when agents are removed.
    metrics.set_agents(agents(3)).expect("agents");
    assert_eq!(series(), 3);
}

#[test]
fn uptimes_and_what_agents_measure_are_replaced_and_bounded() {
    let (registry, metrics) = registered();
    let uptimes =
        |n: usize| (0..n).map(|i| (format!("agent-{i}"), "pc".to_owned(), 0.25)).collect::<Vec<_>>();
    metrics.set_uptime(uptimes(2)).expect("uptimes");
    has(&text(&registry), "postbell_agent_uptime_ratio{agent=\"agent-1\",environment=\"pc\"} 0.25");
    metrics.set_uptime(uptimes(AGENTS_MAX + 1)).expect("uptimes");
    assert!(!text(&registry).contains("postbell_agent_uptime_ratio{"));
    metrics.set_agent_metrics([("a", "records", 12.5), ("b", "records", -1.0)]).expect("metrics");
    has(&text(&registry), "postbell_agent_metric{agent=\"a\",name=\"records\"} 12.5");
    let many: Vec<_> = (0..=AGENT_METRICS_MAX).map(|i| i.to_string()).collect();
    metrics.set_agent_metrics(many.iter().map(|name| ("b", name.as_str(), 1.0))).expect("metrics");
    let text = text(&registry);
    assert_eq!(text.lines().filter(|l| l.starts_with("postbell_agent_metric{")).count(), AGENT_METRICS_MAX);
    assert!(!text.contains("agent=\"a\""), "what is gone leaves no series");
}

#[test]
fn a_second_set_on_one_registry_is_refused() {
    let (registry, _metrics) = registered();
    assert!(Metrics::register(&registry).is_err());
}

#[test]
fn buckets_ascend_and_hold_the_promise() {
    for buckets in [DELIVERY_BUCKETS_S, HANDLING_BUCKETS_S, BELL_BUCKETS_S, SETTLE_BUCKETS] {
        assert!(buckets.is_sorted_by(|a, b| a < b), "{buckets:?}");
    }
    assert!(DELIVERY_BUCKETS_S.contains(&5.0));
}

#[test]
fn the_mesh_is_replaced_but_its_flow_counts_on() {
    let (registry, metrics) = registered();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let (online, offline, flow) = (pair("pc", "online"), pair("railway", "offline"), pair("pc", "railway"));
    let mut reading = MeshReading {
        agents: vec![(online.0, online.1, 2), (offline.0, offline.1, 1)],
        flow: vec![(flow.0, flow.1, 7)],
        pairs: vec![("a".to_owned(), "b".to_owned(), 0.5)],
        alerts: vec![("high".to_owned(), "active".to_owned(), 2)],
        dead: vec![("b".to_owned(), 3)],
    };
    metrics.set_mesh(&reading).expect("a mesh");
    let first = text(&registry);
    has(&first, "postbell_agents{environment=\"pc\",status=\"online\"} 2");
    has(&first, "postbell_flow_total{from_environment=\"pc\",to_environment=\"railway\"} 7");
    has(&first, "postbell_flow_total{from_environment=\"railway\",to_environment=\"pc\"} 0");
    has(&first, "postbell_agent_flow{from_agent=\"a\",to_agent=\"b\"} 0.5");
    has(&first, "postbell_dead_letters{agent=\"b\"} 3");
    has(&first, "postbell_dead_letters{agent=\"(others)\"} 0");
    has(&first, "postbell_alerts{severity=\"high\",status=\"active\"} 2");
    has(&first, "postbell_alerts{severity=\"critical\",status=\"active\"} 0");
    (reading.agents, reading.pairs, reading.dead) = (Vec::new(), Vec::new(), Vec::new());
    reading.alerts.clear();
    metrics.set_mesh(&reading).expect("a mesh");
    let second = text(&registry);
    has(&second, "postbell_flow_total{from_environment=\"pc\",to_environment=\"railway\"} 14");
    has(&second, "postbell_dead_letters{agent=\"(others)\"} 0");
    has(&second, "postbell_alerts{severity=\"high\",status=\"active\"} 0");
    for gone in ["postbell_agents{", "postbell_agent_flow{", "postbell_dead_letters{agent=\"b\""] {
        assert!(!second.contains(gone), "{gone} in\n{second}");
    }
}

#[test]
fn environments_beyond_the_bound_are_others() {
    let (registry, metrics) = registered();
    for n in 0..2 * super::flow::ENVIRONMENTS_MAX {
        let flow = vec![(format!("e{n}"), "pc".to_owned(), 1)];
        metrics.set_mesh(&MeshReading { flow, ..MeshReading::default() }).expect("a mesh");
    }
    let text = text(&registry);
    let series = text.lines().filter(|l| l.starts_with("postbell_flow_total{")).count();
    assert_eq!(series, super::flow::ENVIRONMENTS_MAX * super::flow::ENVIRONMENTS_MAX + 1);
    has(&text, "postbell_flow_total{from_environment=\"(others)\",to_environment=\"pc\"} 17");
}

#[test]
fn readiness_has_a_series_for_each_condition_of_the_health() {
    let (registry, metrics) = registered();
    let conditions = crate::watch::health::Health::new().ready(tokio::time::Instant::now()).conditions;
    assert_eq!(conditions.each_ref().map(|c| c.name), CONDITIONS);
    metrics.set_ready_to_serve(true, conditions.iter().map(|c| (c.name, true)));
    has(&text(&registry), "postbell_broker_ready 1");
    has(&text(&registry), "postbell_condition_ok{condition=\"bell\"} 1");
}

#[test]
fn each_duty_of_the_health_has_a_series_that_goes_back_to_zero() {
    let (registry, metrics) = registered();
    metrics.set_standstills(&[(Duty::Settle, 7.5)]);
    has(&text(&registry), "postbell_standstill_seconds{duty=\"settle\"} 7.5");
    metrics.set_standstills(&[(Duty::Tail, 6.0)]);
    has(&text(&registry), "postbell_standstill_seconds{duty=\"settle\"} 0");
}
