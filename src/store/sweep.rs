//! The sweep: makes deliveries for messages that were written while no trigger of ours fired.

use super::cell::Cells;
use super::connection::{Connection, Target};
use super::error::StoreError;
use super::pool::Pool;
use crate::store::sql::queries;

/// The most messages of one sweep, so that none holds its locks for long.
pub const SWEEP_ROWS: i32 = 500;

/// A look at all messages reads two tables whole.
const LONG: &str = "set statement_timeout = '10min'";

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
    let row = match pool.query_one(queries::SWEEP, &[&SWEEP_ROWS]).await {
        Err(e) if !e.is_retryable() => pool.query_one(queries::SWEEP_EACH, &[&SWEEP_ROWS]).await?,
        row => row?,
    };
    Ok(Swept { took: row.cell("took")?, ready: row.cell("ready")?, look: row.cell("look")? })
}

/// Looks at all messages, however long that takes. Returns how many deliveries became ready, or `None` if another
/// broker is looking.
///
/// # Errors
/// See [`StoreError`].
pub async fn look_at_all(target: &Target) -> Result<Option<i64>, StoreError> {
    let patient = Target { answer_wait: None, ..target.clone() }.looking_on();
    let connection = Connection::open(&patient).await?;
    connection.batch(LONG).await?;
    connection.query_one(queries::SWEEP_ALL, &[]).await?.cell("ready")
}
