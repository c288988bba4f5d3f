//! Agents that no broker hears of any more are offline. One agent's row keeps no other's from being written.

use std::time::Duration;

use uuid::Uuid;

use super::search::{self, RowChange};
use crate::store::cell::Cells;
use crate::store::error::StoreError;
use crate::store::halves::{self, SearchTime};
use crate::store::pool::Pool;
use crate::store::sql::queries;

/// An agent that writes heartbeats by SQL, and has not for this long, is offline.
pub(crate) const SILENT_AFTER: Duration = Duration::from_secs(300);
/// So is an agent whose row names brokers, none of which lives, after this time: the sweep that forgot them could not write it.
pub(crate) const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(30);
/// Enough to find one slow row among thousands. With the statement for all agents before, a sweep is over before it would count as
/// a standstill.
const SEARCH: SearchTime =
    SearchTime { a_try: Duration::from_millis(150), all: Duration::from_millis(2_500) };
/// As many searches follow each other while each of them writes some agents.
const SEARCHES: usize = 4;

/// Writes agents offline that are silent. Returns how many.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn silent(pool: &Pool) -> Result<u64, StoreError> {
    let (after, left_behind) = (SILENT_AFTER.as_secs() as i64, LEFT_BEHIND_AFTER.as_secs() as i64);
    match pool.write_count(queries::PRESENCE_SILENT, &[&after, &left_behind]).await {
        Err(e) if halves::begins(pool, &e).await => {
            each_known(pool, RowChange::Silent { after, left_behind }).await
        }
        written => written,
    }
}

/// Takes these brokers, which are gone, from the agents that they had; an agent that no other broker has is offline. Returns how
/// many agents were changed.
///
/// # Errors
/// See [`StoreError`].
pub(in crate::store) async fn brokers_gone(pool: &Pool, brokers: &[Uuid]) -> Result<u64, StoreError> {
    each_known(pool, RowChange::Gone(brokers)).await
}

/// The names come from the history of presence: to read one row of the registry may be what fails. They come in another order each
/// time, so that an agent that had no turn beside a row at fault has one the next time.
async fn each_known(pool: &Pool, change: RowChange<'_>) -> Result<u64, StoreError> {
    let mut known: Vec<String> = pool.query_one(queries::PRESENCE_KNOWN, &[]).await?.cell("agents")?;
    let mut all = 0;
    for _ in 0..SEARCHES {
        let names: Vec<&str> = known.iter().map(String::as_str).collect();
        let searched = search::each(pool, change, &names, SEARCH).await?;
        for (agent, why) in &searched.left.refused {
            tracing::debug!(agent, why, "the registry does not take that this agent is away");
        }
        all += searched.offline;
        known = searched.untried;
        if searched.offline == 0 || known.is_empty() {
            break;
        }
    }
    Ok(all)
}
