//! Who may take from a group, and who may hold a lock.

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;

const MAY_USE: &str = include_str!("../../sql/queries/grant_check.sql");
const ALLOW: &str = include_str!("../../sql/queries/grant_allow.sql");
const REVOKE: &str = include_str!("../../sql/queries/grant_revoke.sql");
const LIST: &str = include_str!("../../sql/queries/grant_list.sql");

/// What is granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Taking from a group.
    Group,
    /// Holding a lock.
    Lock,
}

impl Kind {
    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Lock => "lock",
        }
    }
}

/// A row: this agent may use what has this name, or begins so where it ends in `*`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[expect(missing_docs, reason = "the columns of postbell.grants")]
pub struct Grant {
    pub name: String,
    pub agent: String,
}

/// Whether an agent of this role may use it.
///
/// # Errors
/// See [`StoreError`].
pub async fn may_use(
    pool: &Pool,
    kind: Kind,
    name: &str,
    agent: &str,
    role: &str,
) -> Result<bool, StoreError> {
    pool.query_one(MAY_USE, &[&kind.as_str(), &name, &agent, &role]).await?.cell("may")
}

/// From now on this agent may, and only those that were allowed.
///
/// # Errors
/// See [`StoreError`].
pub async fn allow(pool: &Pool, kind: Kind, name: &str, agent: &str) -> Result<(), StoreError> {
    pool.execute(ALLOW, &[&kind.as_str(), &name, &agent]).await?;
    Ok(())
}

/// Takes back what was allowed, of one agent or of all; how many rows there were. With the last one the name is open again to
/// whom its role opens it.
///
/// # Errors
/// See [`StoreError`].
pub async fn revoke(pool: &Pool, kind: Kind, name: &str, agent: Option<&str>) -> Result<u64, StoreError> {
    pool.execute(REVOKE, &[&kind.as_str(), &name, &agent]).await
}

/// All of a kind.
///
/// # Errors
/// See [`StoreError`].
pub async fn list(pool: &Pool, kind: Kind) -> Result<Vec<Grant>, StoreError> {
    let rows = pool.query(LIST, &[&kind.as_str()]).await?;
    rows.iter().map(|row| Ok(Grant { name: row.cell("name")?, agent: row.cell("agent_id")? })).collect()
}
