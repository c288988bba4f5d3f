//! Presence: writes to the registry which agents are connected.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::cell::Cells;
use super::connection::Params;
use super::error::StoreError;
use super::pool::Pool;

const CONNECTED: &str = include_str!("../../sql/queries/presence_connected.sql");
const HEARTBEAT: &str = include_str!("../../sql/queries/presence_heartbeat.sql");
const DISCONNECTED: &str = include_str!("../../sql/queries/presence_disconnected.sql");
const EACH: &str = include_str!("../../sql/queries/presence_each.sql");
const SILENT_EACH: &str = include_str!("../../sql/queries/presence_silent_each.sql");
const VERSIONS: &str = include_str!("../../sql/queries/presence_versions.sql");
const KEPT_OUT: &str = include_str!("../../sql/queries/presence_kept_out.sql");
const SILENT: &str = include_str!("../../sql/queries/presence_silent.sql");

/// An agent that writes heartbeats by SQL, and has not for this long, is offline.
pub const SILENT_AFTER: Duration = Duration::from_secs(300);

/// Facts that an agent's hello tells of itself. A fact that is `None` stays as it is registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// The place where it runs.
    pub environment: Option<String>,
    /// Its capabilities, as JSON text.
    pub capabilities: Option<String>,
    /// The version of its software.
    pub version: Option<String>,
}

impl Card {
    /// Whether the hello told no fact.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why an agent has no session any more. An alert is raised for an agent that is merely gone, unless it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The agent said goodbye.
    Goodbye,
    /// The agent may not connect any more, or not in its old role.
    Disabled,
    /// The connection ended, for whatever reason.
    Disconnected,
    /// The agent sent nothing for two heartbeats.
    Silent,
}

impl Absence {
    /// The word in agent_registry.offline_reason. The index presence_history_untold defines which of them lead to
    /// alerts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Goodbye => "goodbye",
            Self::Disabled => "disabled",
            Self::Disconnected => "disconnected",
            Self::Silent => "silent",
        }
    }
}

/// Agents whose rows do not say what they should, and why. One agent's row never keeps those of others from being
/// written.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Agents to be tried again: another transaction holds the row, or the row takes nothing.
    pub unwritten: Vec<String>,
    /// Agents whose row refused all or a part of the change, each with a reason that holds nothing of the row.
    pub refused: Vec<(String, String)>,
}

impl Left {
    fn of_each(rows: &[Row]) -> Result<Self, StoreError> {
        let mut left = Self::default();
        for row in rows {
            let (agent, became): (String, &str) = (row.cell("agent_id")?, row.cell("became")?);
            if became != "partly" {
                left.unwritten.push(agent.clone());
            }
            left.refused.extend(row.cell::<_, Option<String>>("why")?.map(|why| (agent, why)));
        }
        Ok(left)
    }
}

/// The parameters, besides the names, of a statement that writes agents one by one.
#[derive(Default)]
struct Said<'a> {
    environments: Option<&'a [Option<&'a str>]>,
    capabilities: Option<&'a [Option<&'a str>]>,
    versions: Option<&'a [Option<&'a str>]>,
    reasons: Option<&'a [&'a str]>,
}

async fn each(
    pool: &Pool,
    op: &str,
    broker: Uuid,
    names: &[&str],
    said: Said<'_>,
) -> Result<Left, StoreError> {
    let Said { environments, capabilities, versions, reasons } = said;
    let brokers = [broker];
    let params: Params<'_> =
        &[&op, &brokers.as_slice(), &names, &environments, &capabilities, &versions, &reasons];
    Left::of_each(&pool.query(EACH, params).await?)
}

/// Returns those of `asked` that are not in `written`.
fn without<'a>(asked: &[&'a str], written: &[Row]) -> Result<Vec<&'a str>, StoreError> {
    let written: HashSet<&str> = written.iter().map(|row| row.cell(0)).collect::<Result<_, _>>()?;
    Ok(asked.iter().filter(|agent| !written.contains(**agent)).copied().collect())
}

/// Returns the version of each agent's row, which changes whenever the row is written.
async fn versions(pool: &Pool, names: &[&str]) -> Result<HashMap<String, String>, StoreError> {
    let rows = pool.query(VERSIONS, &[&names]).await?;
    rows.iter().map(|row| Ok((row.cell("agent_id")?, row.cell("version")?))).collect()
}

/// Writes the agents one by one, then checks that their rows have changed: a trigger or a rule may discard a change
/// without an error, and nobody would notice.
async fn each_and_look(
    pool: &Pool,
    op: &str,
    broker: Uuid,
    names: &[&str],
    said: Said<'_>,
) -> Result<Left, StoreError> {
    let before = versions(pool, names).await?;
    let mut left = each(pool, op, broker, names, said).await?;
    let after = versions(pool, names).await?;
    let told: HashSet<&str> = left
        .unwritten
        .iter()
        .chain(left.refused.iter().map(|(agent, _)| agent))
        .map(String::as_str)
        .collect();
    let is_same = |name: &str| before.get(name).is_some_and(|version| after.get(name) == Some(version));
    let kept: Vec<&str> = names.iter().copied().filter(|n| !told.contains(n) && is_same(n)).collect();
    if !kept.is_empty() {
        let status = if op == "disconnected" { "offline" } else { "online" };
        for row in pool.query(KEPT_OUT, &[&kept, &status]).await? {
            let agent: String = row.cell("agent_id")?;
            left.unwritten.push(agent.clone());
            left.refused.push((agent, row.cell("why")?));
        }
    }
    Ok(left)
}

/// Notes that the first session of these agents began, or one whose hello told facts. Agents are sorted by name, as
/// everywhere here, so that two brokers cannot deadlock.
///
/// # Errors
/// See [`StoreError`].
pub async fn connected(pool: &Pool, broker: Uuid, agents: &[(&str, &Card)]) -> Result<Left, StoreError> {
    let names: Vec<&str> = agents.iter().map(|(agent, _)| *agent).collect();
    let (environments, capabilities, versions) = words(agents);
    let written = pool.query(CONNECTED, &[&broker, &names, &environments, &capabilities, &versions]).await;
    let left: Vec<&str> = match written {
        Err(e) if !e.is_retryable() => names,
        written => without(&names, &written?)?,
    };
    if left.is_empty() {
        return Ok(Left::default());
    }
    let agents: Vec<(&str, &Card)> =
        agents.iter().filter(|(agent, _)| left.binary_search(agent).is_ok()).copied().collect();
    let (environments, capabilities, versions) = words(&agents);
    let said = Said {
        environments: Some(&environments),
        capabilities: Some(&capabilities),
        versions: Some(&versions),
        reasons: None,
    };
    each_and_look(pool, "connected", broker, &left, said).await
}

type Words<'a> = Vec<Option<&'a str>>;

/// The facts of the hellos, an array for each column.
fn words<'a>(agents: &[(&str, &'a Card)]) -> (Words<'a>, Words<'a>, Words<'a>) {
    let of = |field: fn(&Card) -> &Option<String>| -> Words<'a> {
        agents.iter().map(|(_, card)| field(card).as_deref()).collect()
    };
    (of(|c| &c.environment), of(|c| &c.capabilities), of(|c| &c.version))
}

/// Notes that these agents, which are sorted, still have a session. Returns a digest of the rows that their hellos
/// were checked against. A different digest than last time means that an agent's access changed, or that other agents
/// are connected. The digest is `None` if the rows were written one by one.
///
/// # Errors
/// See [`StoreError`].
pub async fn heartbeat(
    pool: &Pool,
    broker: Uuid,
    agents: &[&str],
) -> Result<(Option<String>, Left), StoreError> {
    let (access, unwritten) = match pool.query_one(HEARTBEAT, &[&broker, &agents]).await {
        Err(e) if !e.is_retryable() => (None, Some(agents.iter().map(|agent| (*agent).to_owned()).collect())),
        written => {
            let row = written?;
            (Some(row.cell("access")?), row.cell::<_, Option<Vec<String>>>("unwritten")?)
        }
    };
    let Some(unwritten) = unwritten else { return Ok((access, Left::default())) };
    let names: Vec<&str> = unwritten.iter().map(String::as_str).collect();
    Ok((access, each_and_look(pool, "heartbeat", broker, &names, Said::default()).await?))
}

/// Notes that the last session of these agents, which are sorted, ended.
///
/// # Errors
/// See [`StoreError`].
pub async fn disconnected(pool: &Pool, broker: Uuid, agents: &[(&str, Absence)]) -> Result<Left, StoreError> {
    let names: Vec<&str> = agents.iter().map(|(agent, _)| *agent).collect();
    let reasons: Vec<&str> = agents.iter().map(|(_, absence)| absence.as_str()).collect();
    let left = match pool.query(DISCONNECTED, &[&broker, &names, &reasons]).await {
        Err(e) if !e.is_retryable() => names,
        written => without(&names, &written?)?,
    };
    if left.is_empty() {
        return Ok(Left::default());
    }
    let of_left = agents.iter().filter(|(agent, _)| left.binary_search(agent).is_ok());
    let reasons: Vec<&str> = of_left.map(|(_, absence)| absence.as_str()).collect();
    let said = Said { reasons: Some(&reasons), ..Said::default() };
    each_and_look(pool, "disconnected", broker, &left, said).await
}

/// Writes agents offline whose heartbeat is older than this. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn silent(pool: &Pool, after: Duration) -> Result<u64, StoreError> {
    let seconds = after.as_secs() as i64;
    match pool.execute(SILENT, &[&seconds]).await {
        Err(e) if !e.is_retryable() => pool.query_one(SILENT_EACH, &[&seconds]).await?.count("n"),
        written => written,
    }
}
