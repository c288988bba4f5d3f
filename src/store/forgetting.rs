//! Deletes rows of Postbell's own tables that are not needed any more. A row that takes no delete (somebody's trigger) stays, and
//! all others go.

use std::time::Duration;

use tokio::time::Instant;

use super::connection::WriteLimit;
use super::error::StoreError;
use super::halves::begins;
use super::pool::Pool;
use super::reap::BATCH_ROWS;
use crate::store::sql::queries;

/// How long one statement may take. After that one of its rows is to blame.
const PART: WriteLimit = WriteLimit::Each(Duration::from_millis(200));
/// How long rows are looked for that take no delete. Nobody waits for that.
const SEARCH_WAIT: Duration = Duration::from_secs(20);

/// Rows that are forgotten in time.
#[derive(Clone, Copy, Debug)]
pub enum Past {
    /// Locks that ended longer ago than this.
    Locks(Duration),
    /// Spans of the history of presence that ended longer ago than this.
    Presence(Duration),
    /// Rows of `postbell.set_aside` whose message is gone, and presence that is not refused any more.
    Asides,
}

/// Deletes such rows. Returns how many.
///
/// # Errors
/// See [`StoreError`]; also the refusal of a row, after all others are deleted.
pub async fn forget(pool: &Pool, past: Past) -> Result<u64, StoreError> {
    match delete(pool, past, BATCH_ROWS, 0).await {
        Err(e) if begins(pool, &e).await => forget_in_parts(pool, past, e).await,
        deleted => deleted,
    }
}

/// Deletes fewer and fewer rows at once until only one is refused, and goes on behind it. The order is the same each time.
async fn forget_in_parts(pool: &Pool, past: Past, mut error: StoreError) -> Result<u64, StoreError> {
    // While somebody locks the whole table, no row is to blame.
    delete(pool, past, 0, 0).await?;
    let until = Instant::now() + SEARCH_WAIT;
    let (mut rows, mut skipped, mut deleted) = (BATCH_ROWS / 2, 0, 0);
    while Instant::now() < until {
        match delete(pool, past, rows, skipped).await {
            Ok(n) => {
                deleted += n;
                if n < rows as u64 {
                    break;
                }
                rows = (rows * 2).min(BATCH_ROWS);
            }
            Err(e) if !e.may_be_of_a_row() => return Err(e),
            Err(e) => {
                skipped += i64::from(rows == 1);
                rows = (rows / 2).max(1);
                error = e;
            }
        }
    }
    tracing::info!(deleted, skipped, "rows take no delete; all others were deleted");
    Err(error)
}

async fn delete(pool: &Pool, past: Past, rows: i64, skipped: i64) -> Result<u64, StoreError> {
    let seconds = |than: Duration| than.as_secs() as i64;
    match past {
        Past::Locks(than) => {
            pool.write_count_within(PART, queries::REAP_LOCKS, &[&seconds(than), &rows, &skipped]).await
        }
        Past::Presence(than) => {
            pool.write_count_within(PART, queries::REAP_PRESENCE, &[&seconds(than), &rows, &skipped]).await
        }
        Past::Asides => pool.write_count_within(PART, queries::ASIDE_FORGET, &[&rows, &skipped]).await,
    }
}
