//! The agents of the registry and their tokens.

mod admission;
mod token;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub use admission::{Denial, Role, RoleLimits, authenticate};
pub use token::{Token, TokenHash, fingerprint, hash, is_hash};

use super::cell::Cells;
use super::connection::{Params, WriteLimit};
use super::error::StoreError;
use super::pool::Pool;
use crate::base::moment;
use crate::store::sql::queries;
use postbell_client::protocol::Rank;
use postbell_client::protocol::frame::{EVERYBODY, GROUP_INBOX};
use postbell_client::protocol::limits::NAME_BYTES_MAX;

/// The longest that an old token is accepted beside its successor, so that no rotation stays unfinished for ever.
pub const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);

/// An agent's waiting deliveries are counted up to here, so that a list does not walk a backlog.
pub const WAITING_COUNTED_MAX: i64 = 10_000;

/// An agent whose token was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRow {
    /// The agent's name, which is also its inbox's.
    pub agent_id: String,
    /// `agent` or `orchestrator`; an adopted registry may have other words.
    pub role: String,
    /// The place where it runs: pc, railway, github, …
    pub environment: String,
    /// The limits of its role.
    pub limits: RoleLimits,
    /// The time of the hello by the database's clock, in microseconds. If one agent and instance has two sessions,
    /// the one with the higher rank goes on.
    pub rank: Rank,
}

/// An agent's inbox has its name.
impl From<AgentRow> for Arc<str> {
    fn from(agent: AgentRow) -> Self {
        agent.agent_id.into()
    }
}

/// Checks whether this can be an agent's name.
///
/// # Errors
/// The reason why it cannot.
pub fn check_name(agent: &str) -> Result<(), String> {
    match agent {
        "" => Err("an agent's name cannot be empty".to_owned()),
        EVERYBODY => Err(format!("an agent cannot be called {EVERYBODY}, which means everybody")),
        _ if agent.starts_with(GROUP_INBOX) => {
            Err(format!("an agent's name cannot begin with {GROUP_INBOX}, as the inboxes of groups do"))
        }
        _ if agent.len() > NAME_BYTES_MAX => {
            Err(format!("an agent's name has at most {NAME_BYTES_MAX} bytes, this has {}", agent.len()))
        }
        _ if agent.chars().any(char::is_control) => {
            Err("an agent's name cannot contain control characters such as tabs and line ends".to_owned())
        }
        _ => Ok(()),
    }
}

/// An agent to register. A field that is `None` gets a default, or is left alone if the agent is registered already.
#[derive(Clone, Debug, Default)]
pub struct NewAgent<'a> {
    /// The agent's name on the wire.
    pub agent_id: &'a str,
    /// The name that people use; by default the agent's name.
    pub agent_name: Option<&'a str>,
    /// The kind of agent, in the mesh's own words; by default its role.
    pub agent_type: Option<&'a str>,
    /// The place where it runs; by default `pc`.
    pub environment: Option<&'a str>,
    /// `agent` (the default) or `orchestrator`.
    pub role: Option<&'a str>,
}

/// An agent that was given a token.
#[derive(Clone, Debug)]
pub struct Added {
    /// The token, which is shown only this once.
    pub token: Token,
    /// Whether the agent was registered just now. If not, it was in the registry already, without a token.
    pub is_new: bool,
    /// Whether the agent may connect.
    pub enabled: bool,
    /// The environment in the registry.
    pub environment: String,
    /// The role in the registry.
    pub role: String,
}

/// Registers an agent and makes its token.
///
/// # Errors
/// The name is not allowed, or the agent has a token already.
pub async fn add(pool: &Pool, agent: &NewAgent<'_>) -> Result<Added, StoreError> {
    check_name(agent.agent_id).map_err(StoreError::refused)?;
    let token = Token::random();
    let hash = token.hash();
    let NewAgent { agent_id, agent_name, agent_type, environment, role } = agent;
    let hash = hash.as_slice();
    let params: Params<'_> = &[agent_id, agent_name, agent_type, environment, role, &hash];
    // If the answer were lost after COMMIT, the agent would have a token that nobody knows. So the transaction
    // commits only after the answer was read.
    let added = pool.in_transaction(queries::AGENT_ADD, params, |row| {
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Added {
            token,
            is_new: row.cell("is_new")?,
            enabled: row.cell("enabled")?,
            environment: row.text("environment")?.unwrap_or_default(),
            role: row.text("role")?.unwrap_or_default(),
        }))
    });
    match added.await? {
        Some(added) => Ok(added),
        None => Err(StoreError::refused(format!(
            "{agent_id} is registered and has a token: use `postbell agent rotate {agent_id}` for a new one"
        ))),
    }
}

/// A registered agent.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[expect(missing_docs, reason = "the columns of agent_registry")]
pub struct Agent {
    pub agent_id: String,
    pub agent_type: String,
    pub environment: String,
    pub role: String,
    /// Whether the agent may connect and gets broadcasts.
    pub enabled: bool,
    /// The status that presence keeps.
    pub status: String,
    pub has_token: bool,
    #[serde(serialize_with = "moment::serialize")]
    pub token_set_at: Option<SystemTime>,
    /// The time until which the previous token is accepted too; `None` if there is none.
    #[serde(serialize_with = "moment::serialize")]
    pub token_previous_until: Option<SystemTime>,
    #[serde(serialize_with = "moment::serialize")]
    pub last_heartbeat: Option<SystemTime>,
    /// Ready deliveries, counted up to [`WAITING_COUNTED_MAX`].
    pub waiting: i64,
    /// Dead letters.
    pub dead: i64,
}

/// Every registered agent, by name.
///
/// # Errors
/// See [`StoreError`].
pub async fn list(pool: &Pool) -> Result<Vec<Agent>, StoreError> {
    let rows = pool.query(queries::AGENT_LIST, &[&WAITING_COUNTED_MAX]).await?;
    let agents = rows.iter().map(|row| {
        Ok(Agent {
            agent_id: row.text("agent_id")?.unwrap_or_default(),
            agent_type: row.text("agent_type")?.unwrap_or_default(),
            environment: row.text("environment")?.unwrap_or_default(),
            role: row.text("role")?.unwrap_or_default(),
            enabled: row.cell("enabled")?,
            status: row.text("status")?.unwrap_or_default(),
            has_token: row.cell("has_token")?,
            token_set_at: row.cell("token_set_at")?,
            token_previous_until: row.cell("token_previous_until")?,
            last_heartbeat: row.cell("last_heartbeat")?,
            waiting: row.cell("waiting")?,
            dead: row.cell("dead")?,
        })
    });
    agents.collect()
}

/// Gives an agent a new token. The old one is accepted for `overlap` more. If that is zero, the old token is void at
/// once, and sessions that used it end. A token older than the old one is void in any case. A disabled agent stays
/// disabled.
///
/// # Errors
/// The agent is not registered, or the overlap is over [`OVERLAP_MAX`].
pub async fn rotate(pool: &Pool, agent: &str, overlap: Duration) -> Result<Token, StoreError> {
    if overlap > OVERLAP_MAX {
        let days = OVERLAP_MAX.as_secs() / 86_400;
        return Err(StoreError::refused(format!(
            "the old token can be accepted for at most {days} days more"
        )));
    }
    let token = Token::random();
    match pool
        .write_count(
            queries::AGENT_ROTATE,
            &[&agent, &token.hash().as_slice(), &(overlap.as_millis() as i64)],
        )
        .await?
    {
        0 => Err(unknown(agent)),
        _ => {
            pool.write_count(queries::AGENT_TOUCH, &[&agent]).await?;
            Ok(token)
        }
    }
}

/// Enables or disables an agent, and returns whether the agent was enabled before. A disabled agent keeps its token,
/// its deliveries wait, and broadcasts pass it over. The agent's sessions end on every broker within a second, or
/// within ten if the notification is lost.
///
/// # Errors
/// The agent is not registered.
pub async fn set_enabled(pool: &Pool, agent: &str, enabled: bool) -> Result<bool, StoreError> {
    let rows = pool.write(WriteLimit::Half, queries::AGENT_ENABLE, &[&agent, &enabled]).await?;
    let was = rows.first().ok_or_else(|| unknown(agent))?.cell("was")?;
    pool.write_count(queries::AGENT_TOUCH, &[&agent]).await?;
    Ok(was)
}

/// Removes an agent from the registry, and returns how many deliveries wait for its name. These are not deleted: they
/// wait until an agent is registered under that name again.
///
/// # Errors
/// The agent is not registered; or deliveries wait for it and `force` is not set.
pub async fn remove(pool: &Pool, agent: &str, force: bool) -> Result<i64, StoreError> {
    let row = pool.write_one(queries::AGENT_REMOVE, &[&agent, &force]).await?;
    let waiting: i64 = row.cell("waiting")?;
    match (row.cell("was_known")?, row.cell("is_removed")?) {
        (false, _) => Err(unknown(agent)),
        (true, true) => Ok(waiting),
        (true, false) => Err(StoreError::refused(format!(
            "{waiting} deliveries wait for {agent}: let it take them, disable it instead (`postbell agent disable \
             {agent}`), or use --force, which leaves them to wait for an agent of that name"
        ))),
    }
}

fn unknown(agent: &str) -> StoreError {
    StoreError::refused(format!("no agent {agent} is registered: `postbell agent list` shows those that are"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_bounded_printable_and_not_everybody() {
        assert_eq!(check_name("validation-agent"), Ok(()));
        assert_eq!(check_name("Prüf agent/2"), Ok(()));
        for bad in ["", "*", "a\nb", "a\0", &"x".repeat(NAME_BYTES_MAX + 1)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(check_name(&"x".repeat(NAME_BYTES_MAX)), Ok(()));
    }
}
