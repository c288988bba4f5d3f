//! Changes that time alone brings about: scheduled deliveries come due, messages expire, and old messages and silent
//! brokers are removed.

use std::time::Duration;

use uuid::Uuid;

use super::cell::Cells;
use super::error::StoreError;
use super::lease::FORGET_AFTER;
use super::pool::Pool;

const PROMOTE: &str = include_str!("../../sql/queries/due_promote.sql");
const EXPIRED: &str = include_str!("../../sql/queries/reap_expired.sql");
const EXPIRED_EACH: &str = include_str!("../../sql/queries/reap_expired_each.sql");
const PROCESSED_EACH: &str = include_str!("../../sql/queries/reap_processed_each.sql");
const BROKERS_EACH: &str = include_str!("../../sql/queries/broker_sweep_each.sql");
const PROCESSED: &str = include_str!("../../sql/queries/reap_processed.sql");
const LOCKS: &str = include_str!("../../sql/queries/reap_locks.sql");
const BROADCASTS: &str = include_str!("../../sql/queries/reap_broadcasts.sql");
const ROUTED: &str = include_str!("../../sql/queries/reap_routed.sql");
const PRESENCE: &str = include_str!("../../sql/queries/reap_presence.sql");
const BROKERS: &str = include_str!("../../sql/queries/broker_sweep.sql");

/// The most rows that one statement of this module changes, so that none holds its locks for long.
pub const BATCH_ROWS: i64 = 2_000;
/// How long after its expiry a message is left alone. A message that is in flight is marked delivered by then, and a
/// delivered message does not expire.
const EXPIRY_GRACE: Duration = Duration::from_secs(5);

const _: () = assert!(postbell_engine::inbox::in_flight::MARK_AFTER.as_millis() < EXPIRY_GRACE.as_millis());

/// The result of a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promoted {
    /// The number of deliveries, at most [`BATCH_ROWS`].
    pub rows: i64,
    /// The wait until the next is due, if one is scheduled.
    pub next: Option<Duration>,
}

/// Makes scheduled deliveries that are due ready.
///
/// # Errors
/// See [`StoreError`].
pub async fn promote_due(pool: &Pool) -> Result<Promoted, StoreError> {
    let row = pool.query_one(PROMOTE, &[&BATCH_ROWS]).await?;
    let next: Option<i64> = row.cell("next_ms")?;
    Ok(Promoted { rows: row.cell("promoted")?, next: next.map(|ms| Duration::from_millis(ms.max(0) as u64)) })
}

/// Fails messages that expired while nobody took them. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn expire(pool: &Pool) -> Result<u64, StoreError> {
    let grace = EXPIRY_GRACE.as_millis() as i64;
    match pool.query_one(EXPIRED, &[&BATCH_ROWS, &grace]).await {
        Err(e) if !e.is_retryable() => {
            pool.query_one(EXPIRED_EACH, &[&BATCH_ROWS, &grace]).await?.count("expired")
        }
        row => row?.count("count"),
    }
}

/// Removes messages that ended longer ago than this. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn remove_older(pool: &Pool, than: Duration) -> Result<u64, StoreError> {
    let seconds = than.as_secs() as i64;
    match pool.execute(PROCESSED, &[&seconds, &BATCH_ROWS]).await {
        Err(e) if !e.is_retryable() => {
            pool.query_one(PROCESSED_EACH, &[&seconds, &BATCH_ROWS]).await?.count("removed")
        }
        removed => removed,
    }
}

/// Removes locks that ended longer ago than this. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn remove_locks(pool: &Pool, than: Duration) -> Result<u64, StoreError> {
    pool.execute(LOCKS, &[&(than.as_secs() as i64), &BATCH_ROWS]).await
}

/// Removes spans of the history of presence that ended longer ago than this. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn remove_presence(pool: &Pool, than: Duration) -> Result<u64, StoreError> {
    pool.execute(PRESENCE, &[&(than.as_secs() as i64), &BATCH_ROWS]).await
}

/// Ends broadcasts that have no delivery left. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn finish_broadcasts(pool: &Pool) -> Result<u64, StoreError> {
    pool.execute(BROADCASTS, &[&BATCH_ROWS]).await
}

/// Deletes the record that a message to many was routed, once that message is over. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn forget_routed(pool: &Pool) -> Result<u64, StoreError> {
    pool.execute(ROUTED, &[&BATCH_ROWS]).await
}

/// Forgets silent brokers, but never this one. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn forget_silent_brokers(pool: &Pool, broker: Uuid) -> Result<u64, StoreError> {
    let silent = FORGET_AFTER.as_millis() as i64;
    match pool.query_one(BROKERS, &[&silent, &broker]).await {
        Err(e) if !e.is_retryable() => pool.query_one(BROKERS_EACH, &[&silent, &broker]).await?.count("n"),
        row => row?.count("count"),
    }
}
