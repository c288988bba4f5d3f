//! Grants: which agents may take from a group, and which may hold a lock.

use super::agents::AgentRow;
use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;
use crate::store::sql::queries;

/// The right that is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Taking from a group.
    Group,
    /// Holding a lock.
    Lock,
}

impl Kind {
    /// The word for it in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Lock => "lock",
        }
    }
}

/// A grant: this agent may use the group or lock with this name, or all that begin so if the name ends in `*`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[expect(missing_docs, reason = "the columns of postbell.grants")]
pub struct Grant {
    pub name: String,
    pub agent: String,
}

/// Whether this agent, in its role, may use the group or lock.
///
/// # Errors
/// See [`StoreError`].
pub async fn may_use(pool: &Pool, kind: Kind, name: &str, agent: &AgentRow) -> Result<bool, StoreError> {
    let AgentRow { agent_id, role, .. } = agent;
    pool.query_one(queries::GRANT_CHECK, &[&kind.as_str(), &name, agent_id, role]).await?.cell("may")
}

/// Adds a grant. From the first grant of a name on, only agents with a grant may use that name.
///
/// # Errors
/// See [`StoreError`].
pub async fn allow(pool: &Pool, kind: Kind, grant: &Grant) -> Result<(), StoreError> {
    pool.execute(queries::GRANT_ALLOW, &[&kind.as_str(), &grant.name, &grant.agent]).await?;
    Ok(())
}

/// Revokes the grant of one agent, or of all; returns how many rows were deleted. Without grants, the name is again
/// open to all whose role allows it.
///
/// # Errors
/// See [`StoreError`].
pub async fn revoke(pool: &Pool, kind: Kind, name: &str, agent: Option<&str>) -> Result<u64, StoreError> {
    pool.execute(queries::GRANT_REVOKE, &[&kind.as_str(), &name, &agent]).await
}

/// All grants of a kind, by name.
///
/// # Errors
/// See [`StoreError`].
pub async fn list(pool: &Pool, kind: Kind) -> Result<Vec<Grant>, StoreError> {
    let rows = pool.query(queries::GRANT_LIST, &[&kind.as_str()]).await?;
    rows.iter().map(|row| Ok(Grant { name: row.cell("name")?, agent: row.cell("agent_id")? })).collect()
}
