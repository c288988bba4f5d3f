//! Presence: the registry says who is connected.

use super::error::StoreError;
use super::pool::Pool;

const CONNECTED: &str = include_str!("../../sql/queries/presence_connected.sql");
const HEARTBEAT: &str = include_str!("../../sql/queries/presence_heartbeat.sql");
const DISCONNECTED: &str = include_str!("../../sql/queries/presence_disconnected.sql");

/// The first session of these agents began.
///
/// # Errors
/// See [`StoreError`].
pub async fn connected(pool: &Pool, agents: &[&str]) -> Result<(), StoreError> {
    pool.execute(CONNECTED, &[&agents]).await?;
    Ok(())
}

/// These agents have a session still. Gives a digest of what their hellos were checked against: where it is another one
/// than the last time, somebody's access changed, or others are here.
///
/// # Errors
/// See [`StoreError`].
pub async fn heartbeat(pool: &Pool, agents: &[&str]) -> Result<String, StoreError> {
    Ok(pool.query_one(HEARTBEAT, &[&agents]).await?.get("access"))
}

/// The last session of these agents ended.
///
/// # Errors
/// See [`StoreError`].
pub async fn disconnected(pool: &Pool, agents: &[&str]) -> Result<(), StoreError> {
    pool.execute(DISCONNECTED, &[&agents]).await?;
    Ok(())
}
