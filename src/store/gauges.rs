//! Readings of the database for the metrics.

use std::time::{Duration, SystemTime};

use tokio_postgres::Row;

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;
use crate::store::sql::queries;
use postbell_client::message::Priority;

/// The most pairs of agents with a series: those with the most messages.
pub const PAIRS_MAX: usize = 30;
/// The most agents with a series for waiting deliveries, and for dead letters: those with the most.
pub const DEEPEST_MAX: usize = 30;
/// The most series of alerts, since a mesh may have severities of its own.
pub const ALERTS_MAX: usize = 30;
/// The name that stands for everything beyond a bound.
pub const OTHERS: &str = "(others)";

/// A reading of the mesh at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MeshReading {
    /// Enabled agents by environment and status, as in the registry.
    pub agents: Vec<(String, String, i64)>,
    /// Messages created since the last reading, by the sender's and the recipient's environment.
    pub flow: Vec<(String, String, u64)>,
    /// Messages a second since the last reading, by sender and recipient, the busiest pairs first.
    pub pairs: Vec<(String, String, f64)>,
    /// Alerts of the last 30 days that are not resolved, by severity and status.
    pub alerts: Vec<(String, String, i64)>,
    /// Dead letters by agent; [`OTHERS`] are those beyond [`DEEPEST_MAX`].
    pub dead: Vec<(String, i64)>,
}

/// Waiting deliveries, by priority and by agent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waiting {
    /// The number at each priority, and when the oldest message was created, in Unix seconds. Priorities without
    /// deliveries are left out.
    pub priorities: Vec<(Priority, u64, f64)>,
    /// The number for each of the agents with the most; [`OTHERS`] are the rest.
    pub agents: Vec<(String, i64)>,
    /// The number for names under which no agent is registered.
    pub unknown: i64,
}

/// Counts the deliveries that are ready and not settled.
///
/// # Errors
/// See [`StoreError`].
pub async fn waiting(pool: &Pool) -> Result<Waiting, StoreError> {
    let mut waiting = Waiting::default();
    for row in pool.query(queries::GAUGES_WAITING, &[&(DEEPEST_MAX as i64)]).await? {
        let (name, count): (_, i64) = (row.text("name")?, row.cell("waiting")?);
        match row.cell("kind")? {
            "priority" => {
                let Some(priority) = name.as_deref().and_then(|name| name.parse().ok()) else { continue };
                let oldest = row.cell::<_, Option<f64>>("oldest")?.unwrap_or(0.0);
                waiting.priorities.push((priority, count.max(0) as u64, oldest));
            }
            "agent" => waiting.agents.push((name.unwrap_or_else(|| OTHERS.to_owned()), count)),
            _ => waiting.unknown = count,
        }
    }
    Ok(waiting)
}

/// Returns enabled agents with their environments, `at_most` so many.
///
/// # Errors
/// See [`StoreError`].
pub async fn agents(pool: &Pool, at_most: i64) -> Result<Vec<(String, String)>, StoreError> {
    let rows = pool.query(queries::GAUGES_AGENTS, &[&at_most]).await?;
    rows.iter().map(|row| Ok((name(row, "agent_id")?, name(row, "environment")?))).collect()
}

/// Returns enabled agents with their environments and the share of the last day for which each was connected, 0 to 1;
/// `at_most` so many.
///
/// # Errors
/// See [`StoreError`].
pub async fn uptimes(pool: &Pool, at_most: i64) -> Result<Vec<(String, String, f64)>, StoreError> {
    let rows = pool.query(queries::GAUGES_UPTIME, &[&at_most]).await?;
    rows.iter()
        .map(|row| Ok((name(row, "agent_id")?, name(row, "environment")?, row.cell("uptime")?)))
        .collect()
}

fn name(row: &Row, column: &str) -> Result<String, StoreError> {
    Ok(row.text(column)?.unwrap_or_default())
}

/// The end of a reading of the mesh's flow, by the database's clock.
pub type FlowEnd = SystemTime;

/// Reads the mesh, with the flow since the last reading ended (the last minute at most), and returns where this one
/// ended. The first reading has no flow.
///
/// # Errors
/// See [`StoreError`].
pub async fn mesh(pool: &Pool, since: Option<FlowEnd>) -> Result<(MeshReading, FlowEnd), StoreError> {
    // Later than any message, so that nothing counts.
    let never = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let [pairs, dead, alerts] = [PAIRS_MAX, DEEPEST_MAX, ALERTS_MAX].map(|n| n as i64);
    let rows =
        match pool.query(queries::GAUGES_MESH, &[&since.unwrap_or(never), &pairs, &dead, &alerts]).await {
            // One of the newest messages cannot be read: this reading has no flow.
            Err(e) if !e.is_retryable() => {
                pool.query(queries::GAUGES_MESH, &[&never, &pairs, &dead, &alerts]).await?
            }
            rows => rows?,
        };
    let mut until = since.unwrap_or(SystemTime::UNIX_EPOCH);
    let mut reading = MeshReading::default();
    for row in &rows {
        let text = |column| Ok::<_, StoreError>(row.text(column)?.unwrap_or_else(|| OTHERS.to_owned()));
        let n = row.cell::<_, Option<i64>>("n")?.unwrap_or(0);
        match row.cell("kind")? {
            "until" => until = row.cell("until")?,
            "agents" => reading.agents.push((text("a")?, text("b")?, n)),
            "flow" => reading.flow.push((text("a")?, text("b")?, n.max(0) as u64)),
            "alerts" => reading.alerts.push((text("a")?, text("b")?, n)),
            "pair" => reading.pairs.push((text("a")?, text("b")?, n as f64)),
            _ => reading.dead.push((text("a")?, n)),
        }
    }
    let seconds = since.and_then(|since| until.duration_since(since).ok()).map_or(1.0, |d| d.as_secs_f64());
    for (_, _, rate) in &mut reading.pairs {
        // A reading looks back a minute at most.
        *rate /= seconds.clamp(1.0, 60.0);
    }
    Ok((reading, until))
}
