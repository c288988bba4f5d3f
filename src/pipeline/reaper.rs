//! The reaper: changes that time alone brings about.

pub(crate) mod alerts;
pub(crate) mod resting;
pub(crate) mod upkeep;

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::Notify;
use tokio::time::sleep;

use uuid::Uuid;

use crate::pipeline::alarm::Alarm;
use crate::pipeline::rest::Rest;
use crate::store::due::Promoter;
use crate::store::forgetting::{Past, forget};
use crate::store::presence;
use crate::store::reap::{self, BATCH_ROWS};
use crate::store::{Pool, StoreError};
use crate::watch::health::{Duty, Health};
use crate::watch::metrics::Metrics;

/// Scheduled deliveries are looked for this often unless the broker rests. One whose time is known is promoted at that time.
const DUE_EVERY: Duration = Duration::from_secs(2);
const EXPIRED_EVERY: Duration = Duration::from_secs(5);
const BROKERS_EVERY: Duration = Duration::from_secs(5);
const SILENT_EVERY: Duration = Duration::from_secs(15);
const RETENTION_EVERY: Duration = Duration::from_secs(60);
const BROADCASTS_EVERY: Duration = Duration::from_secs(600);
/// The longest wait after a sweep that failed, even if the sweep is rare.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// The pause between two batches of one sweep, so that the sweep does not keep the database busy.
const BETWEEN_BATCHES: Duration = Duration::from_millis(50);

/// Promotes scheduled deliveries at their time, until the process ends.
pub(crate) async fn promote(pool: Pool, alarm: Alarm, rest: Rest, wake: Arc<Notify>, health: Health) {
    let mut clock = Instant::now();
    let mut due: Option<Instant> = None;
    let mut promoter = Promoter::new(pool);
    loop {
        tokio::select! {
            () = rest.turn(clock, due) => {}
            at = alarm.changed() => {
                due = due.into_iter().chain(at).min();
                continue;
            }
        }
        clock = Instant::now() + DUE_EVERY;
        health.began(Duty::Promotion, Instant::now());
        let promoted = promoter.promote().await;
        health.set_left_out(Duty::Promotion, promoter.left_out());
        match promoted {
            Ok(promoted) => {
                health.succeeded(Duty::Promotion);
                if promoted.rows > 0 {
                    wake.notify_one();
                }
                due = match promoted.rows == BATCH_ROWS {
                    true => Some(Instant::now()),
                    false => promoted.next.map(|wait| Instant::now() + wait),
                };
            }
            Err(e) => {
                tracing::warn!(error = %e, "scheduled deliveries could not be promoted; trying again");
                health.failed(Duty::Promotion, e.to_string());
                due = Some(clock);
            }
        }
    }
}

/// How long locks and finished tasks are remembered if messages are kept for ever.
const LOCKS_KEPT: Duration = Duration::from_secs(7 * 86_400);

/// The shortest time for which the history of presence is kept, whatever is kept of messages: people ask for a
/// month's uptime.
pub(crate) const PRESENCE_KEPT: Duration = Duration::from_secs(90 * 86_400);

/// Expires, removes and forgets, until the process ends. If messages are kept for ever (`retention` is none), the
/// history of presence is not.
pub(crate) async fn sweep(
    pool: Pool,
    broker: Uuid,
    retention: Option<Duration>,
    metrics: Metrics,
    (rest, health): (Rest, Health),
) {
    let told = |duty| (&rest, &health, duty);
    tokio::join!(
        every(EXPIRED_EVERY, told(Duty::Expiry), || async {
            let rows = reap::expire(&pool).await?;
            metrics.expired.inc_by(rows);
            Ok(rows)
        }),
        every(BROKERS_EVERY, told(Duty::Brokers), || async {
            let brokers = reap::forget_silent_brokers(&pool, broker).await?;
            if brokers > 0 {
                tracing::info!(brokers, "forgot brokers that have been silent");
            }
            Ok(0)
        }),
        every(SILENT_EVERY, told(Duty::Silence), || presence::silent(&pool)),
        // One after the other, because these are in no hurry and connections are few. None keeps the others from their turn.
        every(RETENTION_EVERY, told(Duty::Retention), || async {
            let kept = retention.unwrap_or_default().max(PRESENCE_KEPT);
            most([
                match retention {
                    Some(age) => reap::remove_older(&pool, age).await,
                    None => Ok(0),
                },
                forget(&pool, Past::Locks(retention.unwrap_or(LOCKS_KEPT))).await,
                forget(&pool, Past::Asides).await,
                forget(&pool, Past::Presence(kept)).await,
            ])
        }),
        every(BROADCASTS_EVERY, told(Duty::Broadcasts), || async {
            most([reap::finish_broadcasts(&pool).await, reap::forget_routed(&pool).await])
        }),
    );
}

/// The most rows that one of these statements changed, or the first error.
fn most<const N: usize>(done: [Result<u64, StoreError>; N]) -> Result<u64, StoreError> {
    done.into_iter().try_fold(0, |most, rows| Ok(most.max(rows?)))
}

async fn every<F>(clock: Duration, (rest, health, duty): (&Rest, &Health, Duty), work: impl Fn() -> F)
where
    F: Future<Output = Result<u64, StoreError>>,
{
    loop {
        health.began(duty, Instant::now());
        let worked = work().await;
        match &worked {
            Ok(_) => health.succeeded(duty),
            Err(e) => health.failed(duty, e.to_string()),
        }
        match worked {
            Ok(rows) if rows >= BATCH_ROWS as u64 => sleep(BETWEEN_BATCHES).await,
            Ok(_) => rest.pause(clock).await,
            Err(e) => {
                tracing::warn!(error = %e, "a sweep failed; trying again");
                sleep(clock.min(AFTER_FAILURE)).await;
            }
        }
    }
}
