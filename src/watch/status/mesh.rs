//! The mesh at a glance, as `/api/mesh` tells it and `postbell top` reads it. `docs/http-api.md` describes each field.

use serde::{Deserialize, Serialize};

use postbell_client::message::PRIORITIES;

/// A delivery should take no longer, whatever happens short of the database itself.
pub const TARGET_MS: u64 = 5_000;

/// Everything that is shown at a glance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct Mesh {
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
    pub delivery: Delivery,
    pub flow_seconds: u64,
    pub flow: Vec<Edge>,
}

/// How serious something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Nothing to do.
    #[default]
    Ok,
    /// To be looked at in office hours.
    Watch,
    /// Now.
    Bad,
}

/// What an operator should know first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// The most serious of the findings.
    pub level: Level,
    /// One sentence for the whole.
    pub sentence: String,
    /// Each thing that is not as it should be, the most serious first.
    pub findings: Vec<Finding>,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// How serious.
    pub level: Level,
    /// What is so, and what to do.
    pub sentence: String,
    /// Where to look on the page: `dead`, `agent/NAME`, `depth`, `delivery`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
}

/// The broker that answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct This {
    pub name: String,
    pub version: String,
    pub ready: bool,
    pub up_minutes: u64,
    pub sessions: u64,
    pub in_flight: u64,
    /// Why what the database says may be old; absent while it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
}

/// A broker of this database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct Broker {
    pub name: String,
    pub version: String,
    pub alive: bool,
    /// It sleeps, and producers ring for it.
    pub armed: bool,
    pub inboxes: u64,
    pub up_minutes: u64,
    /// It is the one that answers.
    pub this: bool,
}

/// How an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It is not connected, and messages wait for it.
    Stranded,
    /// It is connected, and messages wait for longer than the target.
    Late,
    /// It says itself that something is wrong.
    Error,
    /// It is connected and has what it should have.
    Ok,
    /// It is not connected, and nothing waits.
    Offline,
    /// It may not connect.
    Disabled,
}

/// An agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct Agent {
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
    /// Known of inboxes that the broker owns that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight: Option<u64>,
    pub dead: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
}

/// The agents of an environment, all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct Environment {
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

/// What is ready at a priority.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct Depth {
    pub priority: u8,
    pub ready: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
}

impl Depth {
    /// Nothing, at every priority.
    pub fn none() -> Vec<Self> {
        (1..=PRIORITIES as u8).map(|priority| Self { priority, ready: 0, oldest_seconds: None }).collect()
    }
}

/// What the tables of the mesh do not take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct SetAside {
    pub kind: String,
    pub count: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_seconds: Option<u64>,
}

/// A group that messages wait for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct Group {
    pub group: String,
    pub waiting: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_seconds: Option<u64>,
    /// Somebody takes from it.
    pub taken: bool,
}

/// Deliveries that wait for a name nobody has registered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Unknown {
    pub inbox: String,
    pub waiting: u64,
}

/// Who sent how much to whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct Edge {
    pub from: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub many: Option<String>,
    pub messages: u64,
    pub failed: u64,
}

/// How long deliveries took that this broker made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "docs/http-api.md describes each")]
pub struct Delivery {
    pub target_ms: u64,
    /// The upper bound of each bucket but the last, which has none.
    pub bounds_ms: Vec<f64>,
    /// The last hour, oldest first; the last minute is not over. Counts by bucket.
    pub minutes: Vec<Vec<u64>>,
    pub count: u64,
    /// Of the hour's deliveries, at most the target.
    pub within_target: u64,
    /// Half of them took at most so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_ms: Option<f64>,
    /// 99 of 100 took at most so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
}
