//! Who wants which topics.

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;

const SUBSCRIBE: &str = include_str!("../../sql/queries/subscribe.sql");
const UNSUBSCRIBE: &str = include_str!("../../sql/queries/unsubscribe.sql");

/// The most topics that one agent subscribes to, where its role says nothing else.
pub const SUBSCRIPTIONS_MAX: i64 = 100;

/// From when this returns, the agent gets messages of topics that match. False: it has as many subscriptions as it may.
///
/// # Errors
/// See [`StoreError`].
pub async fn subscribe(pool: &Pool, agent: &str, pattern: &str, most: i64) -> Result<bool, StoreError> {
    pool.query_one(SUBSCRIBE, &[&agent, &pattern, &most]).await?.cell("has_it")
}

/// From when this returns, it does not.
///
/// # Errors
/// See [`StoreError`].
pub async fn unsubscribe(pool: &Pool, agent: &str, pattern: &str) -> Result<(), StoreError> {
    pool.execute(UNSUBSCRIBE, &[&agent, &pattern]).await?;
    Ok(())
}
