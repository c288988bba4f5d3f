//! Presence: the registry says who is connected.

use super::error::StoreError;
use super::pool::Pool;

const CONNECTED: &str = include_str!("../../sql/queries/presence_connected.sql");
const DISCONNECTED: &str = include_str!("../../sql/queries/presence_disconnected.sql");

/// These agents have a session: alive now, and online if they came just now.
///
/// # Errors
/// See [`StoreError`].
pub async fn connected(pool: &Pool, agents: &[&str], just_now: bool) -> Result<(), StoreError> {
    pool.execute(CONNECTED, &[&agents, &just_now]).await?;
    Ok(())
}

/// The last session of these agents ended.
///
/// # Errors
/// See [`StoreError`].
pub async fn disconnected(pool: &Pool, agents: &[&str]) -> Result<(), StoreError> {
    pool.execute(DISCONNECTED, &[&agents]).await?;
    Ok(())
}
