//! The metrics that are read from the database, when somebody asks for them and not more often than needed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::http::Refresh;
use crate::metrics::{AGENTS_MAX, Metrics};
use crate::postgres::{Pool, StoreError, gauges};
use crate::presence::Presence;

/// Counting a large backlog is work for the database: several scrapers share an answer.
const FRESH: Duration = Duration::from_secs(5);
/// A day's uptime moves slowly, and adds up many spans.
const UPTIME_FRESH: Duration = Duration::from_secs(60);
/// Agents beyond this are not even counted.
const AGENTS_READ_MAX: i64 = 100_000;

/// What `/metrics` calls before it answers.
pub(super) fn refresh(pool: Pool, metrics: Metrics, presence: Presence) -> Refresh {
    let (all, uptime) = (Last::default(), Last::default());
    Arc::new(move || {
        let (pool, metrics, presence) = (pool.clone(), metrics.clone(), presence.clone());
        let (all, uptime) = (all.clone(), uptime.clone());
        Box::pin(async move {
            if all.is_due(FRESH) {
                all.mark();
                if let Err(e) = read(&pool, &metrics, &presence).await {
                    tracing::debug!(error = %e, "the database's gauges keep their last values");
                }
            }
            if uptime.is_due(UPTIME_FRESH) {
                match read_uptime(&pool, &metrics).await {
                    // Only now: a slow database has the scrape go on without, and a minute is long to be without it.
                    Ok(()) => uptime.mark(),
                    Err(e) => tracing::debug!(error = %e, "the uptimes keep their last values"),
                }
            }
        })
    })
}

/// When something was read last.
#[derive(Clone, Default)]
struct Last(Arc<Mutex<Option<Instant>>>);

impl Last {
    fn is_due(&self, fresh: Duration) -> bool {
        self.at().is_none_or(|at| at.elapsed() >= fresh)
    }

    fn mark(&self) {
        *self.at() = Some(Instant::now());
    }

    fn at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read_uptime(pool: &Pool, metrics: &Metrics) -> Result<(), StoreError> {
    let uptimes = gauges::uptimes(pool, AGENTS_MAX as i64 + 1).await?;
    metrics.set_uptime(uptimes).map_err(|e| StoreError::refused(format!("the uptimes' gauges: {e}")))
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
