//! Measurements that agents write to `agent_metrics` by SQL.

use std::time::Duration;

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;
use crate::store::sql::queries;

/// The most rows of one read, the newest first. If a mesh writes more in the time between two reads, the metrics that
/// it writes seldom are late.
pub(crate) const ROWS_MAX: i64 = 20_000;

/// A row of `agent_metrics`. Times are Unix seconds of the database's clock.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Measured {
    pub agent: String,
    pub name: String,
    pub value: f64,
    pub recorded_at: f64,
}

/// Returns the database's time, and the measurements recorded within this time, the newest first.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn recent(pool: &Pool, within: Duration) -> Result<(f64, Vec<Measured>), StoreError> {
    let rows = pool.query(queries::AGENT_METRICS_RECENT, &[&(within.as_secs() as i64), &ROWS_MAX]).await?;
    let now = rows.first().map_or(Ok(0.0), |row| row.cell("now"))?;
    let mut measured = Vec::new();
    for row in &rows {
        // One row may hold the time alone.
        let Some(agent) = row.text("agent_id")? else { continue };
        let (name, value, recorded_at) =
            (row.text("metric_name")?.unwrap_or_default(), row.cell("value")?, row.cell("recorded_at")?);
        measured.push(Measured { agent, name, value, recorded_at });
    }
    Ok((now, measured))
}
