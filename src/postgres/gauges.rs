//! What the metrics say of the database.

use super::error::StoreError;
use super::pool::Pool;
use crate::message::Priority;

const READY: &str = include_str!("../../sql/queries/gauges_ready.sql");
const AGENTS: &str = include_str!("../../sql/queries/gauges_agents.sql");
const UPTIME: &str = include_str!("../../sql/queries/gauges_uptime.sql");
const UNKNOWN: &str = include_str!("../../sql/queries/gauges_unknown.sql");

/// What waits at one priority.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Waiting {
    /// Which.
    pub priority: Priority,
    /// How many deliveries.
    pub count: i64,
    /// When the oldest message was created, in Unix seconds.
    pub oldest_seconds: Option<f64>,
}

/// What waits, by priority; priorities with nothing are left out.
///
/// # Errors
/// See [`StoreError`].
pub async fn waiting(pool: &Pool) -> Result<Vec<Waiting>, StoreError> {
    let rows = pool.query(READY, &[]).await?;
    let waiting = rows.iter().filter_map(|row| {
        let priority = Priority::new(row.get::<_, i16>("priority").into())?;
        Some(Waiting { priority, count: row.get("waiting"), oldest_seconds: row.get("oldest") })
    });
    Ok(waiting.collect())
}

/// The enabled agents, with their environments, at most so many.
///
/// # Errors
/// See [`StoreError`].
pub async fn agents(pool: &Pool, at_most: i64) -> Result<Vec<(String, String)>, StoreError> {
    let rows = pool.query(AGENTS, &[&at_most]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// How much of the last day each enabled agent was here, 0 to 1, with its environment; at most so many.
///
/// # Errors
/// See [`StoreError`].
pub async fn uptimes(pool: &Pool, at_most: i64) -> Result<Vec<(String, String, f64)>, StoreError> {
    let rows = pool.query(UPTIME, &[&at_most]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// How many ready deliveries wait for names that no registered agent has.
///
/// # Errors
/// See [`StoreError`].
pub async fn unknown_recipients(pool: &Pool) -> Result<i64, StoreError> {
    Ok(pool.query_one(UNKNOWN, &[]).await?.get(0))
}
