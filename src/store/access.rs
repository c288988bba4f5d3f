//! Whether connected sessions may stay.

use super::agents::TokenHash;
use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;
use crate::store::sql::queries;
use postbell_engine::inbox::SessionId;

/// A session, as its hello was accepted.
#[derive(Clone, Debug)]
pub struct SessionAccess<'a> {
    /// The session's number.
    pub session: SessionId,
    /// The agent that the session is of.
    pub agent: &'a str,
    /// The hash of the token in its hello.
    pub token: &'a TokenHash,
    /// The agent's role in the registry at that time.
    pub role: &'a str,
    /// The group from which the session takes, if any.
    pub group: Option<&'a str>,
}

/// Returns the sessions that may not stay. The flag says whether the agent may connect again: only its role changed,
/// or who may take from its group.
///
/// # Errors
/// See [`StoreError`].
pub async fn lost(pool: &Pool, entries: &[SessionAccess<'_>]) -> Result<Vec<(SessionId, bool)>, StoreError> {
    let sessions: Vec<i64> = entries.iter().map(|e| e.session.0 as i64).collect();
    let agents: Vec<&str> = entries.iter().map(|e| e.agent).collect();
    let tokens: Vec<&[u8]> = entries.iter().map(|e| e.token.as_slice()).collect();
    let roles: Vec<&str> = entries.iter().map(|e| e.role).collect();
    let groups: Vec<Option<&str>> = entries.iter().map(|e| e.group).collect();
    let rows = pool.query(queries::ACCESS_LOST, &[&sessions, &agents, &tokens, &roles, &groups]).await?;
    rows.iter().map(|row| Ok((SessionId(row.count("session")?), row.cell("may_connect")?))).collect()
}
