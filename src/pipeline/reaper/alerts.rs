//! Alerts that come with time: an agent stays away, or nobody acknowledges an alert. Any broker may look; the
//! database lets one of them act (`sql/queries/alerts_offline.sql`, `alerts_escalate.sql`).

use std::sync::Arc;
use std::time::Duration;

use prometheus::IntCounter;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::{AFTER_FAILURE, BETWEEN_BATCHES};
use crate::pipeline::rest::Rest;
use crate::store::Pool;
use crate::store::alerts::{ALERTS_MAX, AlertTimes, Look, Lookout};
use crate::watch::health::{Duty, Health};
use crate::watch::metrics::Metrics;
use postbell_client::RECONNECT_MAX;

/// The longest wait between two looks unless the broker rests, however late the next alert is due: somebody else may have written something.
const OFFLINE_EVERY: Duration = Duration::from_secs(10);
const ESCALATE_EVERY: Duration = Duration::from_secs(30);
const LOOK_MIN: Duration = Duration::from_secs(1);

// With the default settings, an agent that merely lost its connection is back before anybody is told.
const _: () = assert!(RECONNECT_MAX.as_secs() < 15);

/// Raises and escalates alerts, until the process ends. Agents are first given the usual time to come back, because
/// if this broker was away for an hour, its agents were disconnected too.
pub(crate) async fn run(
    pool: Pool,
    times: AlertTimes,
    (rest, wake): (Rest, Arc<Notify>),
    metrics: Metrics,
    health: Health,
) {
    let (rest, wake) = (&rest, &*wake);
    let raise = async {
        sleep(times.offline).await;
        let every = look_every(times.offline, OFFLINE_EVERY);
        let absences = Lookout::for_absences(pool.clone(), times.offline);
        at_due(every, (rest, wake), (&metrics.alerts_raised, &health, Duty::Alerts), &absences).await;
    };
    let every = look_every(times.escalate, ESCALATE_EVERY);
    let unacknowledged = Lookout::for_unacknowledged(pool.clone(), times.escalate);
    let told = (&metrics.alerts_escalated, &health, Duty::Escalation);
    let escalate = at_due(every, (rest, wake), told, &unacknowledged);
    tokio::join!(raise, escalate);
}

/// An absence or alert that is written right after a look is due `due_after` later, so the next look must not come
/// later than that.
fn look_every(due_after: Duration, at_most: Duration) -> Duration {
    due_after.clamp(LOOK_MIN, at_most)
}

async fn at_due(
    every: Duration,
    (rest, wake): (&Rest, &Notify),
    (done, health, duty): (&IntCounter, &Health, Duty),
    lookout: &Lookout,
) {
    loop {
        health.began(duty, Instant::now());
        match lookout.look().await {
            Ok(look) => {
                health.succeeded(duty);
                if look.rows > 0 {
                    done.inc_by(look.rows as u64);
                    wake.notify_one();
                }
                let (clock, due) = turn(look, every);
                let now = Instant::now();
                rest.turn(now + clock, due.map(|due| now + due)).await;
            }
            Err(e) => {
                tracing::warn!(error = %e, "alerts could not be looked after; trying again");
                health.failed(duty, e.to_string());
                sleep(every.min(AFTER_FAILURE)).await;
            }
        }
    }
}

/// The clock of the next look, and the time at which an alert is known to be due.
fn turn(look: Look, every: Duration) -> (Duration, Option<Duration>) {
    match look.rows == ALERTS_MAX {
        true => (BETWEEN_BATCHES, Some(BETWEEN_BATCHES)),
        false => (every, look.next.map(|next| next.max(BETWEEN_BATCHES))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_next_look_is_when_something_is_due_and_never_late_for_what_nobody_knows_of_yet() {
        let look = |rows, next| Look { rows, next };
        assert_eq!(turn(look(0, None), SECOND * 30), (SECOND * 30, None));
        assert_eq!(turn(look(3, Some(SECOND * 7)), SECOND * 30), (SECOND * 30, Some(SECOND * 7)));
        assert_eq!(
            turn(look(ALERTS_MAX, Some(SECOND)), SECOND * 30),
            (BETWEEN_BATCHES, Some(BETWEEN_BATCHES))
        );
        assert_eq!(turn(look(0, Some(Duration::ZERO)), SECOND * 30), (SECOND * 30, Some(BETWEEN_BATCHES)));
        assert_eq!(look_every(SECOND * 60, ESCALATE_EVERY), ESCALATE_EVERY);
        assert_eq!(look_every(SECOND * 5, ESCALATE_EVERY), SECOND * 5);
    }
}
