//! Presence: writes to the registry which agents are connected.

mod search;
mod sweep;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::time::Duration;

use tokio::time::sleep;
use tokio_postgres::Row;
use uuid::Uuid;

use super::cell::Cells;
use super::connection::{Params, WriteLimit};
use super::error::StoreError;
use super::halves::{self, SearchTime};
use super::pool::{Pool, only};
use crate::store::sql::queries;
use search::{RowChange, Searched};

pub(in crate::store) use sweep::brokers_gone;
pub(crate) use sweep::{LEFT_BEHIND_AFTER, SILENT_AFTER, silent};

/// How long a statement for many agents may take. After that one of their rows is to blame, and is searched for.
const MANY_WAIT: Duration = Duration::from_secs(1);
const MANY: WriteLimit = WriteLimit::Each(MANY_WAIT);
/// A statement that was given up is cancelled by then, and its rows are free.
const CANCELLED_AFTER: Duration = Duration::from_millis(100);
/// How long is searched for a row of a broker's own agents. Agents that are left then are written with the next heartbeats.
const SEARCH: SearchTime =
    SearchTime { a_try: Duration::from_millis(300), all: Duration::from_millis(1_500) };

/// Facts that an agent's hello tells of itself. A fact that is `None` stays as it is registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Card {
    /// The place where it runs.
    pub environment: Option<String>,
    /// The agent's capabilities, as JSON text.
    pub capabilities: Option<String>,
    /// The version of its software.
    pub version: Option<String>,
}

impl Card {
    /// Whether the hello told no fact.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why an agent has no session any more. An alert is raised for an agent that is merely gone, unless it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absence {
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
    pub(crate) fn as_str(self) -> &'static str {
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
pub(crate) struct Left {
    /// Agents to be tried again: another transaction holds the row, or the row takes nothing.
    pub unwritten: Vec<String>,
    /// Agents whose row refused all or a part of the change, each with a reason that holds nothing of the row.
    pub refused: Vec<(String, String)>,
}

impl Left {
    /// Adds the rows of a statement that writes agents one by one. Returns how many of them say `offline`: no such agent is left.
    fn add_each(&mut self, rows: &[Row]) -> Result<u64, StoreError> {
        let mut offline = 0;
        for row in rows {
            let (agent, became): (String, &str) = (row.cell("agent_id")?, row.cell("became")?);
            match became {
                "offline" => offline += 1,
                "partly" => {}
                _ => self.unwritten.push(agent.clone()),
            }
            self.refused.extend(row.cell::<_, Option<String>>("why")?.map(|why| (agent, why)));
        }
        Ok(offline)
    }
}

/// The parameters, besides the names, of a statement that writes agents one by one. Each has one element an agent.
#[derive(Clone, Copy, Default)]
struct Said<'a> {
    environments: Option<&'a [Option<&'a str>]>,
    capabilities: Option<&'a [Option<&'a str>]>,
    versions: Option<&'a [Option<&'a str>]>,
    reasons: Option<&'a [&'a str]>,
}

impl Said<'_> {
    /// The parameters of a part of the agents.
    fn of(&self, part: Range<usize>) -> Self {
        Self {
            environments: self.environments.map(|all| &all[part.clone()]),
            capabilities: self.capabilities.map(|all| &all[part.clone()]),
            versions: self.versions.map(|all| &all[part.clone()]),
            reasons: self.reasons.map(|all| &all[part]),
        }
    }
}

/// Returns those of `asked` that are not in `written`.
fn without<'a>(asked: &[&'a str], written: &[Row]) -> Result<Vec<&'a str>, StoreError> {
    let written: HashSet<&str> = written.iter().map(|row| row.cell(0)).collect::<Result<_, _>>()?;
    Ok(asked.iter().filter(|agent| !written.contains(**agent)).copied().collect())
}

/// Returns the version of each agent's row, which changes whenever the row is written.
async fn versions(pool: &Pool, names: &[&str]) -> Result<HashMap<String, String>, StoreError> {
    let rows = match pool.query(queries::PRESENCE_VERSIONS, &[&names]).await {
        // Then nobody is found to be unchanged: the search found the agent whose row this is.
        Err(e) if e.may_be_of_a_row() => Vec::new(),
        rows => rows?,
    };
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
    let Searched { mut left, untried, .. } =
        search::each(pool, RowChange::Of { op, broker, said }, names, SEARCH).await?;
    left.unwritten.extend(untried);
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
        for row in pool.query(queries::PRESENCE_KEPT_OUT, &[&kept, &status]).await? {
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
pub(crate) async fn connected(
    pool: &Pool,
    broker: Uuid,
    agents: &[(&str, &Card)],
) -> Result<Left, StoreError> {
    let names: Vec<&str> = agents.iter().map(|(agent, _)| *agent).collect();
    let (environments, capabilities, versions) = words(agents);
    let params: Params<'_> = &[&broker, &names, &environments, &capabilities, &versions];
    let written = pool.write(MANY, queries::PRESENCE_CONNECTED, params).await;
    let left: Vec<&str> = match written {
        Err(e) if halves::begins(pool, &e).await => names,
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

/// The result of heartbeats.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Beaten {
    /// A digest of the rows that the agents' hellos were checked against. A different digest than last time means that an agent's access
    /// changed, or that other agents are connected. `None` if some rows were written one by one.
    pub access: Option<String>,
    /// Whether the registry runs no trigger of the user's and defers nothing: then the next heartbeats need no transaction around them.
    pub is_bare: bool,
    /// The agents that were not written.
    pub left: Left,
}

/// Notes that these agents, which are sorted, still have a session. Suspects, which are sorted as well, are not in the statement for
/// all: their rows kept it from being written the last time. `was_bare` is [`Beaten::is_bare`] of the last heartbeats; if that is not
/// true any more, or anything else fails, the heartbeats are written once more, with what is deferred as a part of them.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn heartbeat(
    pool: &Pool,
    broker: Uuid,
    agents: &[&str],
    suspects: &[&str],
    was_bare: bool,
) -> Result<Beaten, StoreError> {
    let params: Params<'_> = &[&broker, &agents];
    let bare = match was_bare {
        true => pool.write_bare(MANY_WAIT, queries::PRESENCE_HEARTBEAT, params).await.ok(),
        false => None,
    };
    let written = match bare {
        Some(rows) => Ok(rows),
        None => {
            if was_bare {
                sleep(CANCELLED_AFTER).await;
            }
            pool.write(MANY, queries::PRESENCE_HEARTBEAT, params).await
        }
    };
    let (access, is_bare, unwritten) = match written {
        Err(e) if halves::begins(pool, &e).await => {
            (None, false, agents.iter().map(|agent| (*agent).to_owned()).collect())
        }
        written => {
            let row = only(written?)?;
            let unwritten: Option<Vec<String>> = row.cell("unwritten")?;
            (Some(row.cell("access")?), row.cell("is_bare")?, unwritten.unwrap_or_default())
        }
    };
    let mut names: Vec<&str> = unwritten.iter().map(String::as_str).chain(suspects.iter().copied()).collect();
    if names.is_empty() {
        return Ok(Beaten { access, is_bare, left: Left::default() });
    }
    names.sort_unstable();
    let access = access.filter(|_| suspects.is_empty());
    let left = each_and_look(pool, "heartbeat", broker, &names, Said::default()).await?;
    Ok(Beaten { access, is_bare, left })
}

/// Notes that the last session of these agents, which are sorted, ended.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn disconnected(
    pool: &Pool,
    broker: Uuid,
    agents: &[(&str, Absence)],
) -> Result<Left, StoreError> {
    let names: Vec<&str> = agents.iter().map(|(agent, _)| *agent).collect();
    let reasons: Vec<&str> = agents.iter().map(|(_, absence)| absence.as_str()).collect();
    let left = match pool.write(MANY, queries::PRESENCE_DISCONNECTED, &[&broker, &names, &reasons]).await {
        Err(e) if halves::begins(pool, &e).await => names,
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
