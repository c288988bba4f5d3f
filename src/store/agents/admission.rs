//! Whether a hello is accepted, and with which role and limits.

use std::fmt;

use tokio_postgres::Row;

use super::token::{hash, is_hash};
use super::{AgentRow, check_name};
use crate::store::cell::Cells;
use crate::store::error::StoreError;
use crate::store::pool::Pool;
use crate::store::sql::queries;
use postbell_client::protocol::Rank;

/// The rights of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// May send to any agent.
    Agent,
    /// May also send to everybody, and administer the dead letters of other inboxes.
    Orchestrator,
}

impl Role {
    /// The role of a word in the registry. An adopted registry may have other words, which allow what `agent` does.
    pub fn of(word: &str) -> Self {
        match word {
            "orchestrator" => Self::Orchestrator,
            _ => Self::Agent,
        }
    }

    /// Whether the agent may send to every registered agent at once.
    pub fn may_broadcast(self) -> bool {
        self == Self::Orchestrator
    }

    /// Whether the agent may administer the dead letters of every inbox.
    pub fn may_administer(self) -> bool {
        self == Self::Orchestrator
    }
}

/// How much an agent of a role may use of one broker: the columns of `postbell.role_limits`. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of role_limits, which the migration describes")]
pub struct RoleLimits {
    pub sends_per_second: Option<u64>,
    pub sends_burst: Option<u64>,
    pub send_bytes_per_second: Option<u64>,
    pub send_bytes_burst: Option<u64>,
    pub publishes_outstanding: Option<u64>,
    pub connections: Option<u64>,
    pub hold_seconds: Option<u64>,
    pub locks_held: Option<u64>,
    pub locks_done: Option<u64>,
    pub subscriptions: Option<u64>,
    pub requests_per_second: Option<u64>,
    pub requests_burst: Option<u64>,
}

impl RoleLimits {
    fn of(row: &Row) -> Result<Self, StoreError> {
        let limit = |column: &str| {
            Ok::<_, StoreError>(row.cell::<_, Option<i64>>(column)?.and_then(|n| u64::try_from(n).ok()))
        };
        Ok(Self {
            sends_per_second: limit("sends_per_second")?,
            sends_burst: limit("sends_burst")?,
            send_bytes_per_second: limit("send_bytes_per_second")?,
            send_bytes_burst: limit("send_bytes_burst")?,
            publishes_outstanding: limit("publishes_outstanding")?,
            connections: limit("connections")?,
            hold_seconds: limit("hold_seconds")?,
            locks_held: limit("locks_held")?,
            locks_done: limit("locks_done")?,
            subscriptions: limit("subscriptions")?,
            requests_per_second: limit("requests_per_second")?,
            requests_burst: limit("requests_burst")?,
        })
    }
}

/// The reason why a hello was refused, for the log alone. The client gets the same answer for all of them, so that it
/// does not learn which names exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// No agent of this name is registered.
    UnknownAgent,
    /// The agent has no token yet, as after an adoption.
    NoToken,
    /// The agent has another token, or the overlap of this one has ended.
    WrongToken,
    /// The token is right, and the agent is disabled.
    Disabled,
    /// The session wants to link, and its credential is not that of a live broker.
    NoBroker,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownAgent => "unknown agent",
            Self::NoToken => "the agent has no token",
            Self::WrongToken => "wrong token",
            Self::Disabled => "the agent is disabled",
            Self::NoBroker => "no live broker has this credential",
        })
    }
}

/// Returns the agent whose token this is, or why the hello is refused.
///
/// # Errors
/// See [`StoreError`].
pub async fn authenticate(
    pool: &Pool,
    agent: &str,
    token: &str,
) -> Result<Result<AgentRow, Denial>, StoreError> {
    let presented = hash(token);
    // Such a name cannot be registered, and Postgres would answer a zero byte with an error.
    if check_name(agent).is_err() {
        return Ok(Err(Denial::UnknownAgent));
    }
    let rows = pool.query(queries::AGENT_AUTHENTICATE, &[&agent]).await?;
    let Some(row) = rows.first() else { return Ok(Err(Denial::UnknownAgent)) };
    let stored = |column| Ok::<_, StoreError>(row.cell::<_, Option<&[u8]>>(column)?.unwrap_or_default());
    let (current, previous) = (stored("token_hash")?, stored("token_hash_previous")?);
    // Both are always compared, so that the time does not tell which one matched. An absent hash never matches.
    let is_right = is_hash(&presented, current) | is_hash(&presented, previous);
    Ok(match (is_right, row.cell::<_, bool>("enabled")?) {
        (true, true) => Ok(AgentRow {
            agent_id: row.cell("agent_id")?,
            role: row.cell("role")?,
            environment: row.cell("environment")?,
            limits: RoleLimits::of(row)?,
            rank: Rank(row.cell("rank")?),
        }),
        (true, false) => Err(Denial::Disabled),
        (false, _) if current.is_empty() => Err(Denial::NoToken),
        (false, _) => Err(Denial::WrongToken),
    })
}
