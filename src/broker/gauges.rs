//! The metrics that are read from the database, when somebody asks for them and not more often than needed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::http::Refresh;
use crate::metrics::Metrics;
use crate::postgres::{Pool, StoreError, gauges};
use crate::presence::Presence;

/// Counting a large backlog is work for the database: several scrapers share an answer.
const FRESH: Duration = Duration::from_secs(5);
/// Agents beyond this are not even counted.
const AGENTS_READ_MAX: i64 = 100_000;

/// What `/metrics` calls before it answers.
pub(super) fn refresh(pool: Pool, metrics: Metrics, presence: Presence) -> Refresh {
    let last: Arc<Mutex<Option<Instant>>> = Arc::default();
    Arc::new(move || {
        let (pool, metrics, presence, last) = (pool.clone(), metrics.clone(), presence.clone(), last.clone());
        Box::pin(async move {
            let due = {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                let due = last.is_none_or(|at| at.elapsed() >= FRESH);
                if due {
                    *last = Some(Instant::now());
                }
                due
            };
            if due && let Err(e) = read(&pool, &metrics, &presence).await {
                tracing::debug!(error = %e, "the database's gauges keep their last values");
            }
        })
    })
}

async fn read(pool: &Pool, metrics: &Metrics, presence: &Presence) -> Result<(), StoreError> {
    let waiting = gauges::waiting(pool).await?;
    let rows: Vec<_> = waiting
        .iter()
        .map(|w| (w.priority, w.count.max(0) as u64, w.oldest_seconds.unwrap_or(0.0)))
        .collect();
    metrics.set_ready(&rows);
    metrics.unknown_recipient.set(gauges::unknown_recipients(pool).await?);
    let agents = gauges::agents(pool, AGENTS_READ_MAX).await?;
    let known = agents.iter().map(|(agent, environment)| (agent, environment, presence.is_connected(agent)));
    metrics.set_agents(known).map_err(|e| StoreError::refused(format!("the agents' gauges: {e}")))
}
