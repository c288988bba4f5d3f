//! Alerts: from a row to the agents that it concerns, from an absence to a row, and the escalation of alerts that
//! nobody answers.

use serde_json::Value;

use crate::harness::{TestDb, migrated, texts};
use crate::mesh::{Mesh, Raw};

/// With these settings nothing escalates while a test looks elsewhere.
const CALM: &[(&str, &str)] =
    &[("POSTBELL_OFFLINE_ALERT_SECONDS", "1"), ("POSTBELL_ESCALATE_SECONDS", "3600")];
const EAGER: &[(&str, &str)] = &[("POSTBELL_ESCALATE_SECONDS", "1")];

/// An agent that is subscribed and takes each delivery.
async fn subscriber(mesh: &Mesh, agent: &str, topic: &str) -> Raw {
    let mut raw = mesh.raw(agent, 20).await;
    raw.say(&format!(r#"{{"op":"subscribe","ref":"s","topic":"{topic}"}}"#)).await;
    raw.expect("subscribed").await;
    raw
}

fn alert(agent: &str, severity: &str, message: &str) -> String {
    format!(
        "insert into agent_alerts (agent_id, alert_type, severity, message, details)
         values ('{agent}', 'data_quality', '{severity}', '{message}', '{{\"rule\": \"not null\"}}')"
    )
}

async fn run(db: &TestDb, statement: &str) {
    db.sql().await.batch_execute(statement).await.expect(statement);
}

#[tokio::test]
async fn an_alert_is_a_message_to_the_topic_of_its_severity_as_urgent_as_it_is() {
    let mesh = Mesh::with(CALM).await;
    let mut pager = subscriber(&mesh, "pager", "alerts.*").await;
    let mut critical = subscriber(&mesh, "critical", "alerts.critical").await;
    let mut other = mesh.raw("other", 20).await;
    for (severity, priority) in [("low", 7), ("medium", 5), ("high", 3), ("critical", 1)] {
        run(&mesh.db, &alert("validation", severity, "a null")).await;
        let msg = pager.expect("msg").await;
        assert_eq!(
            (&msg["topic"], &msg["priority"]),
            (&format!("alerts.{severity}").into(), &priority.into())
        );
        assert_eq!((&msg["from"], &msg["type"]), (&"validation".into(), &"alert".into()));
        let payload = &msg["payload"];
        let fields = [
            ("agent_id", "validation"),
            ("alert_type", "data_quality"),
            ("severity", severity),
            ("message", "a null"),
            ("status", "active"),
        ];
        for (field, value) in fields {
            assert_eq!(payload[field], value, "{payload}");
        }
        assert_eq!(payload["details"]["rule"], "not null");
        let known = format!(
            "select count(*) from agent_alerts where alert_id::text = '{}'",
            text(payload, "alert_id")
        );
        assert_eq!(mesh.db.ask::<i64>(&known).await, 1);
    }
    assert_eq!(critical.expect("msg").await["payload"]["severity"], "critical");
    // Nobody else gets one, and these get no second one.
    for raw in [&mut other, &mut critical] {
        raw.say(r#"{"op":"ping"}"#).await;
        raw.expect("pong").await;
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}"))
}

#[tokio::test]
async fn what_is_loaded_with_its_end_is_history_and_odd_severities_have_a_topic() {
    let db = migrated().await;
    db.agent("everybody").await;
    // An adopted table may lack these constraints.
    run(
        &db,
        "alter table agent_alerts drop constraint agent_alerts_severity_check, alter severity drop not null",
    )
    .await;
    let odd = "insert into agent_alerts (agent_id, alert_type, severity, message, status)
               values ('a', 't', 'Very bad.>', 'm', 'active'), ('a', 't', null, 'm', null), ('a', 't', 'HIGH', 'm', 'active'),
                      ('a', 't', 'high', 'm', 'resolved'), ('a', 't', 'high', 'm', 'acknowledged')";
    run(&db, odd).await;
    let topics = "select topic || ' ' || priority from agent_messages order by 1";
    assert_eq!(
        texts(&db.client().await, topics).await,
        ["alerts.high 3", "alerts.other 5", "alerts.very_bad__ 5"]
    );
    assert_eq!(
        db.ask::<i64>("select count(*) from postbell.deliveries").await,
        0,
        "an alert is never for everybody"
    );
    assert_eq!(db.ask::<i64>("select count(*) from postbell.escalations").await, 3);
}

#[tokio::test]
async fn an_alert_that_the_messages_do_not_take_is_kept_all_the_same() {
    let db = migrated().await;
    run(&db, "alter table agent_messages add check (char_length(from_agent_id) < 5)").await;
    run(&db, &alert("validation", "high", "m")).await;
    run(&db, &alert("a", "high", "m")).await;
    assert_eq!(db.ask::<i64>("select count(*) from agent_alerts").await, 2);
    assert_eq!(db.ask::<String>("select string_agg(from_agent_id, ',') from agent_messages").await, "a");
}

#[tokio::test]
async fn who_may_only_insert_alerts_can_raise_one() {
    let db = migrated().await;
    let make = "do $$ begin if to_regrole('alerter') is null then create role alerter login password 'secret'; end if; end $$;
                grant insert on agent_alerts to alerter;
                create policy alerters on agent_alerts for insert to alerter with check (true)";
    crate::harness::roles(&db.client().await, make).await;
    let alerter = db.client_as("alerter").await;
    alerter.batch(&alert("a", "critical", "m")).await.expect("raised");
    assert_eq!(db.ask::<String>("select topic from agent_messages").await, "alerts.critical");
    for denied in
        ["select from agent_messages", "select from agent_alerts", "select postbell.announce_alerts()"]
    {
        assert_eq!(alerter.batch(denied).await.expect_err(denied).sqlstate(), Some("42501"), "{denied}");
    }
}

/// The alerts of absences, as text.
const OFFLINE: &str = "select agent_id || ' ' || severity || ' ' || status from agent_alerts
                       where alert_type = 'agent_offline' order by created_at, agent_id";

#[tokio::test]
async fn an_agent_that_goes_without_a_goodbye_and_stays_away_is_one_alert_until_it_is_back() {
    let mesh = Mesh::with(CALM).await;
    let mut pager = subscriber(&mesh, "pager", "alerts.>").await;
    let (polite, silent) = (mesh.db.agent("polite").await, mesh.db.agent("silent").await);
    let boss = mesh.db.agent_as("boss", Some("orchestrator")).await;
    let mut goes = mesh.raw_with("polite", &polite, 0).await;
    goes.say(r#"{"op":"bye"}"#).await;
    mesh.db.until("select offline_reason = 'goodbye' from agent_registry where agent_id = 'polite'").await;
    let mut quiet = Raw::open(mesh.agents).await;
    quiet.say(&format!(r#"{{"op":"hello","agent":"silent","token":"{silent}","heartbeat_ms":1000}}"#)).await;
    quiet.expect("welcome").await;
    quiet.expect_error("silent", true).await;
    let msg = pager.expect("msg").await;
    assert_eq!(
        (&msg["topic"], &msg["payload"]["details"]["reason"]),
        (&"alerts.high".into(), &"silent".into())
    );
    assert_eq!(msg["payload"]["message"], "silent (pc) is offline: it says nothing any more");
    // An orchestrator's absence is worse.
    drop(mesh.raw_with("boss", &boss, 0).await);
    assert_eq!(pager.expect("msg").await["topic"], "alerts.critical");
    let sql = mesh.db.client().await;
    // The agent that said goodbye went before both, and is no alert.
    assert_eq!(texts(&sql, OFFLINE).await, ["silent high active", "boss critical active"]);
    let _back = mesh.raw_with("silent", &silent, 0).await;
    let resolved = pager.expect("msg").await;
    assert_eq!((&resolved["topic"], &resolved["from"]), (&"alerts.resolved".into(), &"silent".into()));
    assert_eq!(text(&resolved["payload"], "resolved_by"), "postbell");
    assert_eq!(texts(&sql, OFFLINE).await, ["silent high resolved", "boss critical active"]);
    // An alert is committed before its broker counts.
    mesh.until_metric("postbell_alerts_raised_total", |n| n == 2.0).await;
    // A removed agent is not waited for any more.
    sql.batch("delete from agent_registry where agent_id = 'boss'").await.unwrap();
    assert_eq!(texts(&sql, OFFLINE).await, ["silent high resolved", "boss critical resolved"]);
}

#[tokio::test]
async fn agents_that_only_write_their_row_are_one_alert_after_five_minutes_whatever_the_number_of_brokers() {
    let db = migrated().await;
    let agents = "insert into agent_registry (agent_id, agent_name, agent_type, environment, status, last_heartbeat, updated_at)
                  select name, name, 't', 'pc', status, now() - silence, now() - silence
                  from (values ('a', 'online', interval '6 minutes'), ('b', 'busy', interval '1 hour'),
                               ('c', 'online', interval '3 minutes'), ('d', 'offline', interval '1 day'),
                               ('e', 'error', null)) s (name, status, silence)";
    run(&db, agents).await;
    let (one, two) = (Mesh::on(db.clone(), CALM).await, Mesh::on(db.clone(), CALM).await);
    db.until("select count(*) = 3 from agent_alerts").await;
    let sql = db.client().await;
    assert_eq!(texts(&sql, OFFLINE).await, ["a high active", "b high active", "e high active"]);
    let statuses = "select agent_id || ' ' || status from agent_registry order by 1";
    assert_eq!(texts(&sql, statuses).await, ["a offline", "b offline", "c online", "d offline", "e offline"]);
    // The agent's own heartbeat brings it back; another silence is another alert.
    sql.batch("update agent_registry set status = 'online', last_heartbeat = now() where agent_id = 'a'")
        .await
        .unwrap();
    assert_eq!(texts(&sql, OFFLINE).await, ["a high resolved", "b high active", "e high active"]);
    sql.batch("update agent_registry set last_heartbeat = now() - interval '6 minutes' where agent_id = 'a'")
        .await
        .unwrap();
    db.until("select count(*) = 4 from agent_alerts").await;
    // The alert is committed before its broker counts.
    let raised = async || {
        one.metric("postbell_alerts_raised_total").await + two.metric("postbell_alerts_raised_total").await
    };
    let counted = async {
        while raised().await < 4.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(crate::mesh::PATIENCE, counted).await.expect("all are counted");
    assert_eq!(raised().await, 4.0);
}

#[tokio::test]
async fn an_alert_that_nobody_acknowledges_goes_to_the_orchestrators_once_whatever_the_number_of_brokers() {
    let db = migrated().await;
    let (one, _two) = (Mesh::on(db.clone(), EAGER).await, Mesh::on(db.clone(), EAGER).await);
    let mut boss = one.raw_with("boss", &db.agent_as("boss", Some("orchestrator")).await, 20).await;
    db.agent_as("poller", None).await;
    db.agent("stranger").await;
    db.agent_as("off", Some("orchestrator")).await;
    run(
        &db,
        "update agent_registry set agent_type = 'orchestrator' where agent_id = 'poller';
              update agent_registry set enabled = false where agent_id = 'off'",
    )
    .await;
    // An orchestrator that is subscribed to all alerts is told once.
    let all = db.agent_as("all", Some("orchestrator")).await;
    let mut all = one.raw_with("all", &all, 20).await;
    all.say(r#"{"op":"subscribe","ref":"s","topic":"alerts.>"}"#).await;
    all.expect("subscribed").await;
    let mut alerts = Vec::new();
    for n in 0..20 {
        alerts.push(alert(if n == 0 { "boss" } else { "a" }, "high", "unanswered"));
    }
    // Somebody answers this alert in time.
    let answered = "insert into agent_alerts (agent_id, alert_type, severity, message) values ('a', 't', 'high', 'answered');
                    update agent_alerts set status = 'acknowledged' where message = 'answered'";
    run(&db, &format!("{}; {answered}", alerts.join("; "))).await;
    db.until("select count(*) = 0 from postbell.escalations").await;
    let told = "select coalesce(to_agent_id, 'topic') || ' ' || count(*) || ' ' || count(distinct payload ->> 'alert_id')
                from agent_messages where topic = 'alerts.escalated' group by to_agent_id order by 1";
    // An agent is not told of its own absence or trouble: others have to look after that.
    assert_eq!(texts(&db.client().await, told).await, ["boss 19 19", "poller 20 20", "topic 20 20"]);
    let escalated = "select bool_and((escalated_at is null) = (message = 'answered')) from agent_alerts";
    assert!(db.ask::<bool>(escalated).await);
    let msg = boss.expect("msg").await;
    assert_eq!(
        (&msg["topic"], &msg["priority"], &msg["type"]),
        (&"alerts.escalated".into(), &3.into(), &"alert".into())
    );
    assert_eq!(text(&msg["payload"], "message"), "unanswered");
    let to_all = "select count(*) from postbell.deliveries d join agent_messages m using (message_id)
                  where d.inbox = 'all' and m.topic = 'alerts.escalated'";
    let got = all.expect("msg").await;
    assert!(text(&got, "topic").starts_with("alerts."));
    assert_eq!(db.ask::<i64>(to_all).await, 20, "none of them is acknowledged yet");
}

/// The broker was away while an alert was raised.
#[tokio::test]
async fn what_was_raised_while_no_broker_ran_escalates_when_one_does() {
    let db = migrated().await;
    run(
        &db,
        &format!(
            "{}; update postbell.escalations set raised_at = now() - interval '1 hour'",
            alert("a", "low", "m")
        ),
    )
    .await;
    let mesh = Mesh::on(db, &[]).await;
    mesh.db.until("select count(*) = 1 from agent_messages where topic = 'alerts.escalated'").await;
    mesh.until_metric("postbell_alerts_escalated_total", |n| n == 1.0).await;
}
