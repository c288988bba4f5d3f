//! Presence: the registry says who is connected.

use std::time::Duration;

use uuid::Uuid;

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;

const CONNECTED: &str = include_str!("../../sql/queries/presence_connected.sql");
const HEARTBEAT: &str = include_str!("../../sql/queries/presence_heartbeat.sql");
const DISCONNECTED: &str = include_str!("../../sql/queries/presence_disconnected.sql");
const SILENT: &str = include_str!("../../sql/queries/presence_silent.sql");

/// An agent that keeps its row alive by SQL, and has not for so long, is offline.
pub const SILENT_AFTER: Duration = Duration::from_secs(300);

/// What an agent's hello said of itself; what it did not say stays as it is registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// Where it runs.
    pub environment: Option<String>,
    /// What it can do, as JSON text.
    pub capabilities: Option<String>,
    /// Of its software.
    pub version: Option<String>,
}

impl Card {
    /// It said nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why an agent has no session any more. Of one that is merely gone an alert is raised, unless it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// It said goodbye.
    Goodbye,
    /// It may not be here any more, or not as it was.
    Disabled,
    /// Its connection ended, or was ended, whatever for.
    Disconnected,
    /// It said nothing for two heartbeats.
    Silent,
}

impl Absence {
    /// As agent_registry.offline_reason has it. Which of them alerts are for is said by the index
    /// presence_history_untold.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::Disabled => "disabled",
            Self::Disconnected => "disconnected",
            Self::Silent => "silent",
        }
    }
}

/// The first session of these agents began, or one that says something of the agent. Sorted by agent, as everywhere here, so
/// that two brokers cannot deadlock.
///
/// # Errors
/// See [`StoreError`].
pub async fn connected(pool: &Pool, broker: Uuid, agents: &[(&str, &Card)]) -> Result<(), StoreError> {
    let names: Vec<&str> = agents.iter().map(|(agent, _)| *agent).collect();
    let of = |field: fn(&Card) -> &Option<String>| -> Vec<Option<&str>> {
        agents.iter().map(|(_, card)| field(card).as_deref()).collect()
    };
    let (environments, capabilities) = (of(|c| &c.environment), of(|c| &c.capabilities));
    let versions = of(|c| &c.version);
    pool.execute(CONNECTED, &[&broker, &names, &environments, &capabilities, &versions]).await?;
    Ok(())
}

/// These agents, sorted, have a session still. Gives a digest of what their hellos were checked against: where it is another
/// one than the last time, somebody's access changed, or others are here.
///
/// # Errors
/// See [`StoreError`].
pub async fn heartbeat(pool: &Pool, broker: Uuid, agents: &[&str]) -> Result<String, StoreError> {
    pool.query_one(HEARTBEAT, &[&broker, &agents]).await?.cell("access")
}

/// The last session of these agents, sorted, ended.
///
/// # Errors
/// See [`StoreError`].
pub async fn disconnected(pool: &Pool, broker: Uuid, agents: &[(&str, Absence)]) -> Result<(), StoreError> {
    let names: Vec<&str> = agents.iter().map(|(agent, _)| *agent).collect();
    let reasons: Vec<&str> = agents.iter().map(|(_, absence)| absence.as_str()).collect();
    pool.execute(DISCONNECTED, &[&broker, &names, &reasons]).await?;
    Ok(())
}

/// Writes those offline whose heartbeat is older than this; says how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn silent(pool: &Pool, after: Duration) -> Result<u64, StoreError> {
    pool.execute(SILENT, &[&(after.as_secs() as i64)]).await
}
