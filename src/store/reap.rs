//! Changes that time alone brings about: messages expire, and old messages and silent brokers are removed.

mod older;

use std::time::Duration;
use tokio::time::Instant;

use uuid::Uuid;

use super::blame;
use super::cell::Cells;
use super::cut_off::{self, ENDED, Losses};
use super::error::{Fault, StoreError};
use super::halves;
use super::lease::FORGET_AFTER;
use super::pool::Pool;
use super::presence;
use crate::store::sql::queries;

pub use older::remove_older;

/// The most rows that one statement of this module changes, so that none holds its locks for long.
pub const BATCH_ROWS: i64 = 2_000;
/// How long after its expiry a message is left alone. A message that is in flight is marked delivered by then, and a
/// delivered message does not expire.
pub(super) const EXPIRY_GRACE: Duration = Duration::from_secs(5);

const _: () = assert!(postbell_engine::inbox::in_flight::MARK_AFTER.as_millis() < EXPIRY_GRACE.as_millis());

/// Fails messages that expired while nobody took them. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn expire(pool: &Pool) -> Result<u64, StoreError> {
    let grace = EXPIRY_GRACE.as_millis() as i64;
    match pool.write_one(queries::REAP_EXPIRED, &[&BATCH_ROWS, &grace]).await {
        Err(e) if blame::begins(pool, &e).await => {
            match pool.query_one(queries::REAP_EXPIRED_EACH, &[&BATCH_ROWS, &grace]).await {
                // A row spoils the transaction for the others.
                Err(e) if e.fault() == Fault::Passing && e.may_be_of_a_row() => {
                    expire_apart(pool, grace).await
                }
                row => row?.count("expired"),
            }
        }
        Err(e) if e.is_cut_off() => expire_apart(pool, grace).await,
        row => row?.count("count"),
    }
}

/// Fails expired messages in smaller and smaller groups, since the server process ends at one of them, or its transaction does.
/// That one's status is set aside, and its deliveries go.
async fn expire_apart(pool: &Pool, grace_ms: i64) -> Result<u64, StoreError> {
    let found = pool.query_one(queries::REAP_EXPIRED_FOUND, &[&BATCH_ROWS, &grace_ms]).await?;
    let found: Vec<Uuid> = found.cell("messages")?;
    let (mut expired, mut losses) = (0, Losses::new(Instant::now()));
    let mut groups = vec![found.as_slice()];
    while let Some(group) = groups.pop() {
        if losses.are_too_many(Instant::now()) {
            break;
        }
        match (pool.query_one(queries::REAP_EXPIRED_THESE, &[&group]).await, group) {
            (Ok(row), _) => expired += row.count("count")?,
            (Err(e), _) if !e.may_be_of_a_row() => return Err(e),
            (Err(e), [message]) => {
                losses.add(Instant::now());
                let why = if e.is_cut_off() { ENDED.to_owned() } else { e.to_string() };
                // A server that takes no writes does not take this one either: then no row is to blame.
                pool.execute(queries::REAP_EXPIRED_ASIDE, &[message, &why]).await?;
                tracing::warn!(%message, why, "a message that expired is set aside");
            }
            (Err(_), _) => {
                losses.add(Instant::now());
                groups.extend(cut_off::halves(group));
            }
        }
    }
    Ok(expired)
}

/// Ends broadcasts that have no delivery left. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn finish_broadcasts(pool: &Pool) -> Result<u64, StoreError> {
    match pool.write_count(queries::REAP_BROADCASTS, &[&BATCH_ROWS]).await {
        Err(e) if blame::begins(pool, &e).await => {
            pool.query_one(queries::REAP_BROADCASTS_EACH, &[&BATCH_ROWS]).await?.count("n")
        }
        finished => finished,
    }
}

/// Deletes the record that a message to many was routed, once that message is over. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn forget_routed(pool: &Pool) -> Result<u64, StoreError> {
    match pool.execute(queries::REAP_ROUTED, &[&BATCH_ROWS]).await {
        Err(e) if blame::begins(pool, &e).await => {
            pool.execute(queries::REAP_ROUTED_EACH, &[&BATCH_ROWS]).await
        }
        forgotten => forgotten,
    }
}

/// Forgets silent brokers, but never this one. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn forget_silent_brokers(pool: &Pool, broker: Uuid) -> Result<u64, StoreError> {
    let silent = FORGET_AFTER.as_millis() as i64;
    match pool.write_one(queries::BROKER_SWEEP, &[&silent, &broker]).await {
        // An agent's row may be to blame. The brokers and their leases go first: they wait for no agent.
        Err(e) if halves::begins(pool, &e).await => {
            let row = pool.query_one(queries::BROKER_SWEEP_ALONE, &[&silent, &broker]).await?;
            let gone: Vec<Uuid> = row.cell("brokers")?;
            if !gone.is_empty() {
                presence::brokers_gone(pool, &gone).await?;
            }
            Ok(gone.len() as u64)
        }
        row => row?.count("count"),
    }
}
