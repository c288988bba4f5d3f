//! Alerts: those that the broker raises itself, and those that nobody acknowledged.

use std::time::Duration;

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;

const OFFLINE: &str = include_str!("../../sql/queries/alerts_offline.sql");
const ESCALATE: &str = include_str!("../../sql/queries/alerts_escalate.sql");

/// The most alerts of one statement.
pub const ALERTS_MAX: i64 = 500;

/// How long things may last before they are an alert, or a louder one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertTimes {
    /// An agent's absence without a goodbye.
    pub offline: Duration,
    /// An alert that nobody acknowledges.
    pub escalate: Duration,
}

/// What one look did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// How many, at most [`ALERTS_MAX`].
    pub rows: i64,
    /// When the next is due.
    pub next: Option<Duration>,
}

/// Raises an alert for each agent that has been away for so long.
///
/// # Errors
/// See [`StoreError`].
pub async fn raise_offline(pool: &Pool, after: Duration) -> Result<Look, StoreError> {
    look(pool, OFFLINE, after).await
}

/// Tells the orchestrators of each alert that nobody acknowledged for so long.
///
/// # Errors
/// See [`StoreError`].
pub async fn escalate(pool: &Pool, after: Duration) -> Result<Look, StoreError> {
    look(pool, ESCALATE, after).await
}

async fn look(pool: &Pool, statement: &'static str, after: Duration) -> Result<Look, StoreError> {
    let row = pool.query_one(statement, &[&(after.as_millis() as i64), &ALERTS_MAX]).await?;
    let next: Option<i64> = row.cell("next_ms")?;
    Ok(Look { rows: row.cell(0)?, next: next.map(|ms| Duration::from_millis(ms.max(0) as u64)) })
}
