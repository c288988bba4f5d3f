//! Which agents subscribe to which topics.

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;
use crate::store::sql::queries;

/// The most topics to which one agent subscribes, unless its role says otherwise.
pub const SUBSCRIPTIONS_MAX: i64 = 100;

/// Subscribes an agent: once this returns, it gets messages with matching topics. False if the agent has `most`
/// subscriptions already.
///
/// # Errors
/// See [`StoreError`].
pub async fn subscribe(pool: &Pool, agent: &str, pattern: &str, most: i64) -> Result<bool, StoreError> {
    pool.query_one(queries::SUBSCRIBE, &[&agent, &pattern, &most]).await?.cell("has_it")
}

/// Ends a subscription: once this returns, the agent gets no more messages by it.
///
/// # Errors
/// See [`StoreError`].
pub async fn unsubscribe(pool: &Pool, agent: &str, pattern: &str) -> Result<(), StoreError> {
    pool.execute(queries::UNSUBSCRIBE, &[&agent, &pattern]).await?;
    Ok(())
}
