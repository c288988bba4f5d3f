//! The mesh at a glance, as `/api/mesh` returns it and `postbell top` reads it. `docs/http-api.md` describes each
//! field.

use serde::{Deserialize, Serialize};

use postbell_client::message::PRIORITIES;

/// The longest that a delivery should take, whatever fails short of the database itself.
pub(crate) const TARGET_MS: u64 = 5_000;

/// Everything that is shown at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Mesh {
    pub verdict: Verdict,
    pub broker: This,
    pub brokers: Vec<Broker>,
    pub environments: Vec<Environment>,
    pub agents: Vec<Agent>,
    pub agents_left_out: u64,
    pub depth: Vec<Depth>,
    pub scheduled: u64,
    pub dead: u64,
    pub set_aside: Vec<SetAside>,
    pub groups: Vec<Group>,
    pub unknown: Vec<Unknown>,
    pub delivery: DeliveryTimes,
    pub flow_seconds: u64,
    pub flow: Vec<Edge>,
}

/// How serious a finding is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Nothing has to be done.
    #[default]
    Ok,
    /// Somebody should look, in office hours.
    Watch,
    /// Somebody should act now.
    Bad,
}

/// The summary that an operator should read first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Verdict {
    /// The most serious of the findings.
    pub level: Level,
    /// One sentence for the whole.
    pub sentence: String,
    /// Each problem, the most serious first.
    pub findings: Vec<Finding>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Finding {
    /// How serious it is.
    pub level: Level,
    /// The problem, and what to do.
    pub sentence: String,
    /// The place on the page that shows more: `dead`, `agent/NAME`, `depth`, `delivery`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
}

/// The broker that answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct This {
    pub name: String,
    pub version: String,
    pub ready: bool,
    pub up_minutes: u64,
    pub sessions: u64,
    pub in_flight: u64,
    /// The reason why data of the database may be old; absent while the database answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
}

/// A broker of this database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Broker {
    pub name: String,
    pub version: String,
    pub alive: bool,
    /// Whether the broker sleeps, and producers ring for it.
    pub armed: bool,
    pub inboxes: u64,
    pub up_minutes: u64,
    /// Whether this broker is the one that answers.
    pub this: bool,
}

/// The condition of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Standing {
    /// Not connected, and messages wait for it.
    Stranded,
    /// Connected, and messages wait for longer than the target; a minute if another broker owns the inbox.
    Late,
    /// Connected, and its own status is `error`.
    Error,
    /// Connected, and none of the above.
    Ok,
    /// Not connected, and nothing waits.
    Offline,
    /// Not allowed to connect.
    Disabled,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Agent {
    pub agent: String,
    pub environment: String,
    #[serde(rename = "type")]
    pub agent_type: String,
    pub role: String,
    pub status: String,
    pub standing: Standing,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_seconds: Option<u64>,
    pub waiting: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
    /// Known only if the answering broker owns the inbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    pub dead: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
}

/// The counts of all agents of an environment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Environment {
    pub environment: String,
    pub agents: u64,
    pub ok: u64,
    pub late: u64,
    pub stranded: u64,
    pub error: u64,
    pub offline: u64,
    pub disabled: u64,
    pub waiting: u64,
    pub dead: u64,
}

/// The ready deliveries of a priority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Depth {
    pub priority: u8,
    pub ready: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
}

impl Depth {
    /// No ready deliveries, at every priority.
    pub(crate) fn none() -> Vec<Self> {
        (1..=PRIORITIES as u8).map(|priority| Self { priority, ready: 0, oldest_seconds: None }).collect()
    }
}

/// Writes that the tables of the mesh do not take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SetAside {
    pub kind: String,
    pub count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
}

/// A group for which messages wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Group {
    pub group: String,
    pub waiting: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
    /// Whether somebody takes from the group.
    pub taken: bool,
}

/// Deliveries that wait for a name under which nobody is registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Unknown {
    pub inbox: String,
    pub waiting: u64,
}

/// The number of messages from one sender to one recipient.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Edge {
    pub from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub many: Option<String>,
    pub messages: u64,
    pub failed: u64,
}

/// The delivery times of this broker's pushes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DeliveryTimes {
    pub target_ms: u64,
    /// The upper bound of each bucket except the last, which has none.
    pub bounds_ms: Vec<f64>,
    /// The counts of each minute of the last hour by bucket, oldest first; the last minute is not over.
    pub minutes: Vec<Vec<u64>>,
    pub count: u64,
    /// How many of the hour's deliveries took at most the target.
    pub within_target: u64,
    /// Half of the deliveries took at most this long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 99 of 100 deliveries took at most this long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}
