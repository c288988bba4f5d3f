//! The sweep: makes deliveries for messages that were written while no trigger of ours fired.

use super::cell::Cells;
use super::connection::{Connection, Target};
use super::error::StoreError;
use super::pool::Pool;

const SWEEP: &str = include_str!("../../sql/queries/sweep.sql");
const ALL: &str = include_str!("../../sql/queries/sweep_all.sql");

/// The most messages of one sweep, so that none holds its locks for long.
pub const SWEEP_ROWS: i32 = 500;

/// A look at all messages reads two tables whole, which the broker's other statements must never do.
const LONG: &str = "set statement_timeout = '10min'; set enable_seqscan = on; set enable_hashjoin = on; \
                    set enable_mergejoin = on; set enable_sort = on; set plan_cache_mode = auto";

/// The result of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// The noted messages that it took, at most [`SWEEP_ROWS`].
    pub took: i64,
    /// Deliveries that became ready.
    pub ready: i64,
    /// Whether a trigger was touched, so that all messages must be looked at.
    pub look: bool,
}

/// Makes deliveries for the messages that were noted.
///
/// # Errors
/// See [`StoreError`].
pub async fn sweep(pool: &Pool) -> Result<Swept, StoreError> {
    let row = pool.query_one(SWEEP, &[&SWEEP_ROWS]).await?;
    Ok(Swept { took: row.cell("took")?, ready: row.cell("ready")?, look: row.cell("look")? })
}

/// Looks at all messages, however long that takes. Returns how many deliveries became ready, or `None` if another
/// broker is looking.
///
/// # Errors
/// See [`StoreError`].
pub async fn look_at_all(target: &Target) -> Result<Option<i64>, StoreError> {
    let patient = Target { answer_wait: None, ..target.clone() };
    let connection = Connection::open(&patient).await?;
    connection.batch(LONG).await?;
    connection.query_one(ALL, &[]).await?.cell("ready")
}
