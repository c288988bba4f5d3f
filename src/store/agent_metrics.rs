//! What agents measure and write to `agent_metrics` by SQL.

use std::time::Duration;

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;

const RECENT: &str = include_str!("../../sql/queries/agent_metrics_recent.sql");

/// The most rows of one read, the newest: a mesh that writes more than this in one read's time has its rarer ones late.
pub const ROWS_MAX: i64 = 20_000;

/// A row of `agent_metrics`. Times are Unix seconds of the database's clock.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the table's columns")]
pub struct Measured {
    pub agent: String,
    pub name: String,
    pub value: f64,
    pub recorded_at: f64,
}

/// What was recorded within this time, the newest first, and the database's time.
///
/// # Errors
/// See [`StoreError`].
pub async fn recent(pool: &Pool, within: Duration) -> Result<(f64, Vec<Measured>), StoreError> {
    let rows = pool.query(RECENT, &[&(within.as_secs() as i64), &ROWS_MAX]).await?;
    let now = rows.first().map_or(Ok(0.0), |row| row.cell("now"))?;
    let mut measured = Vec::new();
    for row in &rows {
        // The row that has the time alone.
        let Some(agent) = row.text("agent_id")? else { continue };
        let (name, value, recorded_at) =
            (row.text("metric_name")?.unwrap_or_default(), row.cell("value")?, row.cell("recorded_at")?);
        measured.push(Measured { agent, name, value, recorded_at });
    }
    Ok((now, measured))
}
