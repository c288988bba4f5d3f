//! Measurements that agents write to `agent_metrics`, for Prometheus. The table is read on a clock and not for each
//! scrape, and only its new rows, so scrapers cost the database nothing.

mod latest;

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::store::Pool;
use crate::store::agent_metrics::recent;
use crate::watch::metrics::Metrics;
use latest::Latest;

/// How often the table is read.
const READ_EVERY: Duration = Duration::from_secs(15);
/// How long a series is exported after its last value was recorded.
pub(crate) const STALE_AFTER: Duration = Duration::from_secs(900);
/// How far each read goes back beyond the one before: agents' clocks differ, and transactions commit late.
const OVERLAP: Duration = Duration::from_secs(60);

const _: () = assert!(READ_EVERY.as_secs() + OVERLAP.as_secs() < STALE_AFTER.as_secs());

/// Reads until the process ends.
pub(crate) async fn run(pool: Pool, metrics: Metrics) {
    let mut latest = Latest::default();
    let mut every = interval(READ_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // If a read fails, the next one goes back further.
    let mut missed = STALE_AFTER;
    loop {
        every.tick().await;
        match recent(&pool, missed.min(STALE_AFTER)).await {
            Ok((now, rows)) => {
                let had_room = latest.dropped() == 0;
                latest.take(now, rows);
                missed = READ_EVERY + OVERLAP;
                show(&latest, &metrics, had_room);
            }
            Err(e) => {
                missed += READ_EVERY;
                tracing::warn!(error = %e, "the agents' metrics could not be read; trying again");
            }
        }
    }
}

fn show(latest: &Latest, metrics: &Metrics, had_room: bool) {
    let dropped = latest.dropped();
    metrics.agent_metrics_dropped.set(i64::try_from(dropped).unwrap_or(i64::MAX));
    if dropped > 0 && had_room {
        tracing::warn!(
            dropped,
            "agent_metrics has more agents and names than are exported: the rest waits for others to end"
        );
    }
    if let Err(e) = metrics.set_agent_metrics(latest.values()) {
        tracing::warn!(error = %e, "the agents' metrics could not be shown");
    }
}
