//! Alerts: raises those about absent agents, and escalates those that nobody acknowledged.

use std::time::Duration;

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;

const OFFLINE: &str = include_str!("../../sql/queries/alerts_offline.sql");
const ESCALATE: &str = include_str!("../../sql/queries/alerts_escalate.sql");

/// The most alerts that one statement raises or escalates.
pub const ALERTS_MAX: i64 = 500;

/// How long a condition lasts before it becomes an alert, or an alert is escalated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertTimes {
    /// The absence of an agent that said no goodbye.
    pub offline: Duration,
    /// The time for which nobody has acknowledged an alert.
    pub escalate: Duration,
}

/// The result of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The number of alerts, at most [`ALERTS_MAX`].
    pub rows: i64,
    /// The wait until the next alert is due, if one is known.
    pub next: Option<Duration>,
}

/// Raises an alert for each agent that has been away for this long.
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
