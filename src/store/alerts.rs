//! Alerts: raises those about absent agents, and escalates those that nobody acknowledged.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::cell::Cells;
use super::error::{Fault, StoreError};
use super::pool::Pool;

const OFFLINE: &str = include_str!("../../sql/queries/alerts_offline.sql");
const ESCALATE: &str = include_str!("../../sql/queries/alerts_escalate.sql");
const POSTPONE: &str = include_str!("../../sql/queries/alerts_postpone.sql");

/// The most alerts that one statement raises or escalates.
pub const ALERTS_MAX: i64 = 500;
/// By so much is a batch smaller after one that failed.
const SMALLER_BY: i64 = 8;
/// A statement that failed after so long may have had too much to do.
const LATE: Duration = Duration::from_secs(3);

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
    look(pool, OFFLINE, after, ALERTS_MAX).await
}

/// Tells the orchestrators of each alert that nobody acknowledged for so long. A batch that fails is tried in
/// smaller ones; an alert that cannot be told by itself comes again later, so that it stands in no other's way.
///
/// # Errors
/// See [`StoreError`].
pub async fn escalate(pool: &Pool, after: Duration) -> Result<Look, StoreError> {
    let (mut most, mut told) = (ALERTS_MAX, 0);
    loop {
        let since = Instant::now();
        match look(pool, ESCALATE, after, most).await {
            Err(e) if may_be_an_alert(&e, since) && most > 1 => {
                tracing::debug!(error = %e, most, "alerts are escalated in smaller batches");
                most = (most / SMALLER_BY).max(1);
            }
            Err(e) if may_be_an_alert(&e, since) => {
                let postponed = pool.query(POSTPONE, &[&(after.as_millis() as i64)]).await?;
                let Some(row) = postponed.first() else { return Err(e) };
                let alert: Uuid = row.cell(0)?;
                tracing::warn!(%alert, error = %e, "an alert cannot be escalated; it is tried again later");
            }
            Ok(look) if most < ALERTS_MAX && look.rows > 0 => told += look.rows,
            Ok(look) => return Ok(Look { rows: told + look.rows, ..look }),
            Err(e) => return Err(e),
        }
    }
}

fn may_be_an_alert(error: &StoreError, since: Instant) -> bool {
    matches!(error.fault(), Fault::Refused | Fault::Slow) || since.elapsed() >= LATE
}

async fn look(pool: &Pool, statement: &'static str, after: Duration, most: i64) -> Result<Look, StoreError> {
    let row = pool.query_one(statement, &[&(after.as_millis() as i64), &most]).await?;
    let next: Option<i64> = row.cell("next_ms")?;
    Ok(Look { rows: row.cell(0)?, next: next.map(|ms| Duration::from_millis(ms.max(0) as u64)) })
}
