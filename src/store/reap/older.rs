//! Retention of messages. One that cannot be removed keeps no other.

use std::time::Duration;

use tokio::time::Instant;

use super::BATCH_ROWS;
use crate::store::blame;
use crate::store::cell::Cells;
use crate::store::connection::{Params, WriteLimit};
use crate::store::error::StoreError;
use crate::store::halves::{self, Halving, SearchTime};
use crate::store::pool::Pool;
use crate::store::sql::queries;

/// Enough to find one slow row among a million pages. With the statement for all messages before, retention is over before it would
/// count as a standstill.
const SEARCH: SearchTime = SearchTime { a_try: Duration::from_millis(100), all: Duration::from_secs(3) };
/// The most rows of a part, so that only a row at fault takes the time of a try.
const PART_ROWS: i64 = BATCH_ROWS / 10;

/// Removes messages that ended longer ago than this. Returns how many; at least [`BATCH_ROWS`] if others may be left.
///
/// # Errors
/// See [`StoreError`].
pub async fn remove_older(pool: &Pool, than: Duration) -> Result<u64, StoreError> {
    let seconds = than.as_secs() as i64;
    let met = match pool.write_count(queries::REAP_PROCESSED, &[&seconds, &BATCH_ROWS]).await {
        Err(e) if blame::begins(pool, &e).await => match one_by_one(pool, seconds).await {
            // Rows at fault took all of its time, or are all that is left.
            Ok(0) => return Ok(by_place(pool, seconds).await?.unwrap_or(0)),
            Err(e) => e,
            removed => return removed.map(or_more),
        },
        Err(e) => e,
        removed => return removed,
    };
    // A row takes too long, ends the server process, or spoils the transaction for the others.
    if !(met.is_retryable() && halves::begins(pool, &met).await) {
        return Err(met);
    }
    by_place(pool, seconds).await?.ok_or(met)
}

async fn one_by_one(pool: &Pool, seconds: i64) -> Result<u64, StoreError> {
    pool.query_one(queries::REAP_PROCESSED_EACH, &[&seconds, &BATCH_ROWS]).await?.count("removed")
}

/// Removes old messages by their places in the table, in smaller and smaller parts: a message whose row cannot even be read has no
/// other name. `None`: every part failed, so no row is to blame.
async fn by_place(pool: &Pool, seconds: i64) -> Result<Option<u64>, StoreError> {
    let table = pool.query_one(queries::REAP_PROCESSED_PLACES, &[]).await?;
    let (places, a_page) = (table.count("places")? as usize, table.count("a_page")?.max(1) as usize);
    let place = |n: usize| format!("({},{})", n / a_page, n % a_page);
    // Other parts each time, so that a message that had no turn beside rows at fault has one the next time.
    let drawn = rand::random_range(0..=places / 2);
    let mut search = Halving::among(places + drawn, SEARCH, Instant::now());
    let limit = WriteLimit::Each(SEARCH.a_try);
    let (mut removed, mut at_fault) = (None, 0);
    while let Some(part) = search.next(Instant::now()) {
        let (from, to) = (place(part.start), place(part.end));
        let params: Params<'_> = &[&seconds, &PART_ROWS, &from, &to];
        match pool.write_count_within(limit, queries::REAP_PROCESSED_PART, params).await {
            Ok(rows) => {
                removed = Some(removed.unwrap_or(0) + rows);
                if rows >= PART_ROWS.unsigned_abs() {
                    // Others of the part may be left.
                    search.halve(&part);
                }
            }
            Err(e) => {
                if let Some(e) = search.failed(&part, e, Instant::now())? {
                    at_fault += 1;
                    // One of them tells an operator enough.
                    if at_fault == 1 {
                        tracing::warn!(ctid = from, error = %e, "a message that ended long ago cannot be removed");
                    }
                }
            }
        }
    }
    Ok(removed.map(or_more))
}

/// The number for [`remove_older`]: while some are removed beside a row at fault, others may be left.
fn or_more(removed: u64) -> u64 {
    if removed == 0 { 0 } else { removed.max(BATCH_ROWS.unsigned_abs()) }
}
