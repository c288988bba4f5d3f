//! The broker's metrics for Prometheus: every series is declared in this file, once.
//!
//! A [`Metrics`] is registered on a registry that is passed in, and is handed down from there. Nothing is global, so
//! tests run in parallel. Label values come from enums and start at 0: a rate exists before the first failure, and an
//! alert on that rate does not miss the failure. Labels with names from outside, of agents and of their measurements,
//! are bounded ([`AGENTS_MAX`], [`AGENT_METRICS_MAX`]).

mod declare;
mod family;
mod flow;
mod labels;
mod mesh;
#[cfg(test)]
mod tests;

use std::ops::Deref;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use crate::watch::health::Duty;
use declare::{counter, counters, float_gauge, float_gauges, flow, gauge, gauges, histogram, replaced};
use family::Family;
use flow::FlowCounter;
use postbell_client::message::Priority;
use postbell_client::protocol::ErrorCode;
use postbell_client::protocol::limits::PROTO;

pub(crate) use labels::{CloseReason, DeadReason, FailReason};

/// Buckets of a delivery's latency. The lower half resolves the promise for an idle mesh, a millisecond or two. The
/// promise for the worst case, 5 s, must be a bound of its own, so that the share that kept it is exact and not
/// interpolated. 10 s separates a promise that was just missed from one missed by far.
pub(crate) const DELIVERY_BUCKETS_S: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Buckets of an agent's work on one message, from a script's few milliseconds to a language model's minutes. 30 s is
/// the default ack deadline; work that took longer was extended.
pub(crate) const HANDLING_BUCKETS_S: &[f64] =
    &[0.001, 0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0];

/// Buckets of the canary's round trip. Below 1 ms the database is near, 5 to 100 ms is another region, and above 1 s
/// the next canary is due before this one came back.
pub(crate) const BELL_BUCKETS_S: &[f64] =
    &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

/// Buckets of a settled batch, in deliveries. A batch of 1 shows an idle broker; full batches show that the database
/// is the limit.
pub(crate) const SETTLE_BUCKETS: &[f64] =
    &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];

/// The conditions that must hold for the broker to be ready, as `/health/ready` names them.
pub(crate) const CONDITIONS: &[&str] = &["database", "bell", "work", "draining"];

/// The kinds of rows that may be set aside, as in `postbell.set_aside.kind`.
pub(crate) const SET_ASIDE: &[&str] = &["ack", "retry", "dead", "expired", "presence"];

/// With more registered agents than this, the families with one series an agent are absent, since the first thousand
/// would look like all. A series costs Prometheus a few kilobytes, and nobody can read such a list; the sums stay.
pub(crate) const AGENTS_MAX: usize = 1_000;

/// The most series of agents' measurements; further ones are not exported, but counted.
pub(crate) const AGENT_METRICS_MAX: usize = 1_000;

/// The refusals that an operator may have to do something about: a role, or its limits.
pub(crate) const SEND_REFUSALS: &[ErrorCode] = &[ErrorCode::Forbidden, ErrorCode::SlowDown];

/// Makes the struct, its docs and its registration from one line for each series, so that they cannot differ. The
/// help text is the field's documentation.
macro_rules! series {
    ($(
        $vis:vis $field:ident: $kind:ty = $make:ident $(($($arg:expr),*))?, $name:literal, $help:literal;
    )*) => {
        /// Every series; read through [`Metrics`].
        #[derive(Debug)]
        pub struct Series { $(#[doc = $help] $vis $field: $kind,)* }

        impl Series {
            fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
                Ok(Self { $($field: $make(registry, Opts::new($name, $help) $($(, $arg)*)?)?,)* })
            }
        }
    };
}

series! {
    pub delivery_seconds: Histogram = histogram(DELIVERY_BUCKETS_S), "postbell_delivery_seconds",
        "Time from a message's created_at to the write on its agent's socket, on every push. Waiting for an \
         absent agent or a full window is part of it.";
    pub wait_seconds: Histogram = histogram(DELIVERY_BUCKETS_S), "postbell_wait_seconds",
        "Time that a delivery waited for the broker, and not for its agent: from when it was ready and the agent had \
         room, to the write on the socket. The promise of 5 s is counted by it. Retries count from when they are due; \
         the backlog of an agent that was away counts only while nothing of it is pushed.";
    pub longest_wait: Gauge = float_gauge, "postbell_longest_wait_seconds",
        "The longest that something waits for this broker right now though its agent is connected and has room; looked \
         for each second. 0 while all goes well.";
    pub handling_seconds: Histogram = histogram(HANDLING_BUCKETS_S), "postbell_handling_seconds",
        "Time from the write on the socket to the agent's ack: the agent's own work.";
    pub published: IntCounter = counter, "postbell_published_total",
        "Messages sent through the broker (`send`) and committed, without those inserted by SQL.";
    sends_refused: IntCounterVec = counters("code", SEND_REFUSALS.iter().map(|c| c.as_str())),
        "postbell_sends_refused_total",
        "Messages that agents may not send, by the code they were refused with: forbidden (their role does not allow \
         it), slow_down (more than its limits allow; the client sends again).";
    pub pushed: IntCounter = counter, "postbell_pushed_total",
        "Deliveries written to a socket. A redelivery counts again.";
    pub acked: IntCounter = counter, "postbell_acked_total",
        "Deliveries acknowledged by their agent and settled in the database.";
    failed: IntCounterVec = counters("reason", FailReason::ALL.iter().map(|r| r.as_str())),
        "postbell_failed_total",
        "Failed attempts by reason: nack (the agent said so), deadline (no ack in time), disconnect (the \
         session ended before the ack). Each is retried or becomes a dead letter.";
    dead: IntCounterVec = counters("reason", DeadReason::ALL.iter().map(|r| r.as_str())),
        "postbell_dead_total",
        "Deliveries that became dead letters by reason: max_attempts, rejected (the agent's nack said dead), \
         payload_too_large, unreadable (its row holds what cannot be read). `postbell dead list` shows them.";
    pub expired: IntCounter = counter, "postbell_expired_total",
        "Deliveries whose message expired before it was delivered; they are never pushed.";
    pub in_flight: IntGauge = gauge, "postbell_in_flight",
        "Deliveries pushed and not yet settled, over all sessions.";
    pub unsettled: IntGauge = gauge, "postbell_unsettled",
        "Outcomes (acks, failures) that wait to be written to the database. Above 100000 nothing is pushed.";
    pub inboxes: IntGauge = gauge, "postbell_inboxes",
        "Inboxes that this broker owns or is about to: how the mesh is shared among the brokers.";
    pub links: IntGauge = gauge, "postbell_links",
        "Sessions here whose inbox another broker owns, and that are linked to it.";
    pub sessions: IntGauge = gauge, "postbell_sessions",
        "Connections that said hello and were welcomed.";
    closed: IntCounterVec = counters("reason", CloseReason::all().map(|r| r.as_str())),
        "postbell_closed_total",
        "Connections that ended, by reason: bye (the client said so), disconnect (the socket ended), tls (the \
         handshake failed or took too long), or the code of the fatal error that the broker sent.";
    ready: IntGaugeVec = gauges("priority", Priority::all().map(|p| p.to_string())), "postbell_ready",
        "Deliveries in the database that are ready and not yet settled, by priority (1 is the highest). \
         Those in flight are among them.";
    oldest_ready: GaugeVec = float_gauges("priority", Priority::all().map(|p| p.to_string())),
        "postbell_oldest_ready_timestamp_seconds",
        "Unix time at which the oldest ready delivery of a priority was created; 0 when none is ready. \
         `time() - x and x > 0` is its age.";
    pub unknown_recipient: IntGauge = gauge, "postbell_unknown_recipient",
        "Ready deliveries for an inbox that is no registered agent. They wait; most often a name is \
         misspelled. `postbell doctor` names them.";
    agent_waiting: Family<1> = replaced(["agent"]), "postbell_agent_waiting",
        "Ready deliveries by registered agent, those in flight among them: the 30 with the most, and (others). Every broker \
         tells the same.";
    dead_letters: Family<1> = replaced(["agent"]), "postbell_dead_letters",
        "Dead letters that lie in the database, by agent: the 30 with the most, and (others). Every broker tells the same.";
    agents_by_status: Family<2> = replaced(["environment", "status"]), "postbell_agents",
        "Registered agents by environment and by the status in the registry. Every broker tells the same.";
    flow: FlowCounter = flow, "postbell_flow_total",
        "Messages by the environment of their sender and of their recipient: (many) where they are for several, (group) for \
         one of several, (not registered) where the name is no agent's. Read from the database every 15 s, a few seconds late. \
         Every broker tells the same.";
    alerts: Family<2> = replaced(["severity", "status"]), "postbell_alerts",
        "Alerts of the last 30 days in agent_alerts that are not resolved, by severity and status: active ones nobody has \
         acknowledged. Every broker tells the same.";
    agent_flow: Family<2> = replaced(["from_agent", "to_agent"]), "postbell_agent_flow",
        "Messages a second from one agent to another between the last two readings: the 30 pairs with the most. Every \
         broker tells the same.";
    agents: Family<2> = replaced(["agent", "environment"]), "postbell_agent_connected",
        "1 while a registered agent has a session, 0 while it has none. With more than 1000 registered \
         agents this family is absent; postbell_agents_connected and postbell_agents_known remain.";
    agents_known: IntGauge = gauge, "postbell_agents_known",
        "Registered agents.";
    agents_connected: IntGauge = gauge, "postbell_agents_connected",
        "Registered agents that have a session.";
    agent_uptime: Family<2> = replaced(["agent", "environment"]), "postbell_agent_uptime_ratio",
        "How much of the last 24 hours a registered agent was here, 0 to 1, counted from when it was registered if that \
         is later. Read at most once a minute. With more than 1000 registered agents this family is absent; the \
         function agent_uptime(interval) remains.";
    agent_metric: Family<2> = replaced(["agent", "name"]), "postbell_agent_metric",
        "The latest value of each agent and name in agent_metrics, read every 15 s; gone 15 minutes after its \
         recorded_at. At most 1000 series: see postbell_agent_metrics_dropped.";
    pub agent_metrics_dropped: IntGauge = gauge, "postbell_agent_metrics_dropped",
        "Agents' metrics that were recorded lately and are not exported: 1000 others are, or a name is longer than \
         256 bytes.";
    pub alerts_raised: IntCounter = counter, "postbell_alerts_raised_total",
        "Alerts that this broker raised because an agent went without a goodbye and stayed away.";
    pub alerts_escalated: IntCounter = counter, "postbell_alerts_escalated_total",
        "Alerts that nobody acknowledged in time and that this broker told the orchestrators of.";
    pub bell_roundtrip_seconds: Histogram = histogram(BELL_BUCKETS_S), "postbell_bell_roundtrip_seconds",
        "Time from the broker's NOTIFY to itself until its LISTEN connection heard it: the floor of every \
         delivery to an idle broker.";
    pub bell_armed: IntGauge = gauge, "postbell_bell_armed",
        "1 while the broker sleeps and producers ring for it; 0 while it is busy and tails on its own clock.";
    pub notify_queue: Gauge = float_gauge, "postbell_notify_queue_ratio",
        "How full the server's queue of notifications is, 0 to 1. Over 0.5 the bell is off: a session that listens and \
         sits idle in a transaction pins the queue.";
    pub bell_rings: IntCounter = counter, "postbell_bell_rings_total",
        "Notifications that woke the broker, without its own canaries.";
    pub unseen: IntCounter = counter, "postbell_unseen_total",
        "Looks at deliveries whose messages could not be seen, each again and again: row level security hides them from the \
         broker, or they were deleted past the triggers. `postbell doctor` counts the deliveries.";
    pub leases_lost: IntCounter = counter, "postbell_leases_lost_total",
        "Inboxes whose leases somebody else took out of postbell.leases, or gave to another broker. Each is asked for anew within \
         a second.";
    pub tail_late: IntCounter = counter, "postbell_tail_late_total",
        "Deliveries that the safety round found though the bell was armed and should have announced them. \
         Anything but 0 means lost notifications.";
    pub tail_rows: IntCounter = counter, "postbell_tail_rows_total",
        "Deliveries that the tail read, each once, and again after a retry or a redrive.";
    pub router: IntGauge = gauge, "postbell_router",
        "1 while this broker is the router, which makes the deliveries of what busy producers leave.";
    pub routed: IntCounter = counter, "postbell_routed_total",
        "Deliveries that this broker made as the router, after the producers' commits.";
    pub settle_batch: Histogram = histogram(SETTLE_BUCKETS), "postbell_settle_batch",
        "Deliveries settled by one statement.";
    set_aside: IntGaugeVec = gauges("kind", SET_ASIDE.iter()), "postbell_set_aside",
        "Outcomes and agents that the tables of the mesh do not take, by kind: ack, retry, dead and expired are outcomes \
         that agent_messages refuses, presence is agents whose rows agent_registry refuses. `postbell aside list` says why.";
    pub tls_expires: IntGauge = gauge, "postbell_tls_expires_timestamp_seconds",
        "Unix time until which the certificate of the agents' port is valid; 0 without TLS.";
    pub tls_reload_failures: IntCounter = counter, "postbell_tls_reload_failures_total",
        "Times that the files of the certificate changed and were of no use; the old certificate stays.";
    broker_ready: IntGauge = gauge, "postbell_broker_ready",
        "1 while the broker is ready, as /health/ready says; 0 while it is not.";
    conditions: IntGaugeVec = gauges("condition", CONDITIONS.iter()), "postbell_condition_ok",
        "The conditions for the broker to be ready, each 1 while it holds. database: it answers. bell: the broker's own \
         notifications come back. work: no duty stands still, and fewer \
         outcomes wait to be written than may. draining: the broker is not stopping.";
    standstill: GaugeVec = float_gauges("duty", Duty::ALL.iter().map(|duty| duty.as_str())), "postbell_standstill_seconds",
        "How long a duty of the broker has not succeeded though it has something to do, from 5 s on; 0 while it gets on. tail: \
         new messages are read. refill: waiting ones are. settle: outcomes are written. promotion: scheduled messages become \
         ready. presence: the registry says who is here.";
    pub database_up: IntGauge = gauge, "postbell_database_up",
        "1 while the last statement reached the database, 0 since one could not.";
}

/// The broker's metrics; clones share the series.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Series>);

impl Metrics {
    /// Registers every series on `registry`, with the process's own (`process_*`, on Linux). Fails if the registry
    /// has them already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let series = Series::register(registry)?;
        build_info(registry)?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(Self(Arc::new(series)))
    }

    /// Counts a failed attempt.
    pub fn failed(&self, reason: FailReason) {
        self.failed.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a dead letter.
    pub fn dead(&self, reason: DeadReason) {
        self.dead.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a send that was refused with one of [`SEND_REFUSALS`]. Other codes are the client's own mistakes and
    /// are not counted.
    pub fn send_refused(&self, code: ErrorCode) {
        if SEND_REFUSALS.contains(&code) {
            self.sends_refused.with_label_values(&[code.as_str()]).inc();
        }
    }

    /// Counts a connection that ended.
    pub fn closed(&self, reason: CloseReason) {
        self.closed.with_label_values(&[reason.as_str()]).inc();
    }

    /// The number of deliveries in each bucket of [`DELIVERY_BUCKETS_S`], and beyond the last bound.
    pub fn delivery_counts(&self) -> Vec<u64> {
        let families = self.delivery_seconds.collect();
        let histogram = families.first().and_then(|f| f.get_metric().first()).map(|m| m.get_histogram());
        let Some(histogram) = histogram else { return vec![0; DELIVERY_BUCKETS_S.len() + 1] };
        let mut below = 0;
        let upto = histogram.get_bucket().iter().map(|bucket| bucket.cumulative_count());
        let upto = upto.chain([histogram.get_sample_count()]);
        upto.map(|upto| upto - std::mem::replace(&mut below, upto)).collect()
    }

    /// Sets whether the broker is ready, and each of [`CONDITIONS`]; other conditions have no series.
    pub fn set_ready_to_serve(
        &self,
        ready: bool,
        conditions: impl IntoIterator<Item = (&'static str, bool)>,
    ) {
        self.broker_ready.set(i64::from(ready));
        for (name, holds) in conditions.into_iter().filter(|(name, _)| CONDITIONS.contains(name)) {
            self.conditions.with_label_values(&[name]).set(i64::from(holds));
        }
    }

    /// Sets for how many seconds these duties have stood still; all others are set to 0.
    pub fn set_standstills(&self, standstills: &[(Duty, f64)]) {
        for duty in Duty::ALL {
            let seconds =
                standstills.iter().find(|(still, _)| *still == duty).map_or(0.0, |(_, seconds)| *seconds);
            self.standstill.with_label_values(&[duty.as_str()]).set(seconds);
        }
    }

    /// Sets how many rows of each of [`SET_ASIDE`] are set aside; a kind that is not in `counts` is set to 0.
    pub fn set_set_aside<'a>(&self, counts: impl Iterator<Item = (&'a str, u64)> + Clone) {
        for kind in SET_ASIDE.iter().copied() {
            let count = counts.clone().find(|(k, _)| *k == kind).map_or(0, |(_, count)| count);
            self.set_aside.with_label_values(&[kind]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// Sets the ready deliveries: the priority, how many, and when the oldest was created (Unix seconds). A priority
    /// that is not in `rows` is set to 0, as the answer of a `group by` leaves it out.
    pub fn set_ready(&self, rows: &[(Priority, u64, f64)]) {
        for priority in Priority::all() {
            let row = rows.iter().find(|row| row.0 == priority);
            let (count, oldest) = row.map_or((0, 0.0), |row| (row.1, row.2));
            let label = [priority.to_string()];
            self.ready.with_label_values(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
            self.oldest_ready.with_label_values(&label).set(oldest);
        }
    }

    /// Replaces the registered agents, each with its environment and whether it has a session. A removed agent leaves
    /// no series behind.
    pub fn set_agents<A, E>(
        &self,
        agents: impl IntoIterator<Item = (A, E, bool)>,
    ) -> Result<(), prometheus::Error>
    where
        A: AsRef<str>,
        E: AsRef<str>,
    {
        let (mut known, mut connected) = (0, 0);
        let mut rows = Vec::new();
        for (agent, environment, is_connected) in agents {
            known += 1;
            connected += i64::from(is_connected);
            // Past the bound agents are only counted, so a registry of any size costs no memory here.
            if rows.len() <= AGENTS_MAX {
                rows.push((agent, environment, f64::from(u8::from(is_connected))));
            }
        }
        let rows = or_none(rows);
        self.agents.replace(
            rows.iter().map(|(agent, environment, on)| ([agent.as_ref(), environment.as_ref()], *on)),
        )?;
        self.agents_known.set(known);
        self.agents_connected.set(connected);
        Ok(())
    }

    /// Replaces the uptimes of registered agents, each with its environment. At most one agent more than
    /// [`AGENTS_MAX`] is expected.
    pub fn set_uptime(&self, agents: Vec<(String, String, f64)>) -> Result<(), prometheus::Error> {
        let rows = or_none(agents).into_iter();
        self.agent_uptime.replace(rows.map(|(agent, environment, uptime)| ([agent, environment], uptime)))
    }

    /// Replaces the agents' measurements: agent, name, value; at most [`AGENT_METRICS_MAX`].
    pub fn set_agent_metrics<'a>(
        &self,
        rows: impl IntoIterator<Item = (&'a str, &'a str, f64)>,
    ) -> Result<(), prometheus::Error> {
        let rows = rows.into_iter().take(AGENT_METRICS_MAX);
        self.agent_metric.replace(rows.map(|(agent, name, value)| ([agent, name], value)))
    }
}

impl Deref for Metrics {
    type Target = Series;

    fn deref(&self) -> &Series {
        &self.0
    }
}

/// All agents, or none if there are too many.
fn or_none<T>(rows: Vec<T>) -> Vec<T> {
    if rows.len() > AGENTS_MAX { Vec::new() } else { rows }
}

/// A constant 1 whose labels describe the build, to be joined with other series.
fn build_info(registry: &Registry) -> Result<(), prometheus::Error> {
    // A debug build explains a slow broker, so the profile is a label.
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let opts = Opts::new(
        "postbell_build_info",
        "Always 1; the labels tell the version, the protocol and the build.",
    )
    .const_label("version", env!("CARGO_PKG_VERSION"))
    .const_label("proto", PROTO.to_string())
    .const_label("profile", profile);
    gauge(registry, opts)?.set(1);
    Ok(())
}
