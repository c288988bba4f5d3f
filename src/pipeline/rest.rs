//! Rest: while nothing happens the sweeps have nothing to do, and do not ask the database for it.
//!
//! Each renewal of the lease brings signs: a delivery was made, a message was noted that no trigger saw, a trigger was touched, an agent
//! came or went, an outcome was set aside, a broker is gone. For [`RESTLESS_FOR`] after the last sign the sweeps go by their clocks. After
//! that the broker rests: a single look (`reaper/resting.rs`) stands for all sweeps, until there is another sign or something is due. A
//! sweep that failed goes by its clock, whatever the signs are. So what nobody sees is swept, later.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::store::lease::{LeaseSum, Renewed, Signs};

/// The longest clock of a sweep that somebody waits for is 15 s. So after a sign each of them has a turn.
const RESTLESS_FOR: Duration = Duration::from_secs(20);
/// At rest each sweep has a turn so seldom, in case that something happened of which there is no sign.
const RESTING_MAX: Duration = Duration::from_secs(600);
/// So long signs are not looked for after a renewal that failed: the look may have been the reason.
const BLIND_FOR: Duration = Duration::from_secs(60);

/// Whether the broker rests. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Rest(Arc<RestState>);

#[derive(Debug)]
struct RestState {
    /// When the rest begins.
    begins: watch::Sender<Instant>,
    seen: Mutex<LastSigns>,
}

/// The signs so far.
#[derive(Debug, Default)]
struct LastSigns {
    last: Option<(i64, LeaseSum)>,
    /// A sign precedes the COMMIT: all that it told of can be seen once the transactions before this one have ended. `MAX`: the next
    /// renewal tells which.
    open_below: i64,
    blind_until: Option<Instant>,
}

impl LastSigns {
    /// Whether these signs tell that something happens.
    fn note(&mut self, signs: Signs, held: LeaseSum) -> bool {
        let is_new = self.last.replace((signs.seen, held)) != Some((signs.seen, held));
        if is_new {
            // The sign's transaction may be later than the renewal that brought it, and is earlier than the next renewal.
            self.open_below = i64::MAX;
        } else if self.open_below == i64::MAX {
            self.open_below = signs.begun_until;
        }
        is_new || signs.is_broker_gone || signs.open_from < self.open_below
    }
}

impl Rest {
    /// A broker begins without rest.
    pub(crate) fn new() -> Self {
        let (begins, _) = watch::channel(Instant::now() + RESTLESS_FOR);
        Self(Arc::new(RestState { begins, seen: Mutex::default() }))
    }

    /// Something happened, or nobody knows.
    pub(crate) fn stir(&self) {
        self.0.begins.send_replace(Instant::now() + RESTLESS_FOR);
    }

    /// Notes the signs that a renewal brought.
    pub(crate) fn note(&self, renewed: &Renewed) {
        // The sweep may soon have to take what a dead router was left.
        let is_sign = renewed.signs.is_none_or(|signs| self.seen().note(signs, renewed.held));
        if is_sign || renewed.is_orphaned {
            self.stir();
        }
    }

    /// Notes that a renewal failed: the next ones do without signs.
    pub(crate) fn renewal_failed(&self) {
        self.seen().blind_until = Some(Instant::now() + BLIND_FOR);
        self.stir();
    }

    /// Whether the next renewal is to look for signs.
    pub(crate) fn wants_signs(&self) -> bool {
        self.seen().blind_until.is_none_or(|until| until <= Instant::now())
    }

    /// Waits for the next turn of a sweep: at `due`, if that is known, or when its clock says so and the broker does not rest.
    /// Cancel-safe.
    pub(crate) async fn turn(&self, clock: Instant, due: Option<Instant>) {
        let longest = clock + RESTING_MAX;
        let last = due.map_or(longest, |due| due.min(longest));
        sleep_until(clock.min(last)).await;
        self.stirred_until(last).await;
    }

    /// [`turn`](Self::turn) after so long.
    pub(crate) async fn pause(&self, clock: Duration) {
        self.turn(Instant::now() + clock, None).await;
    }

    /// Waits until the broker does not rest, at most until then. Returns whether it does not.
    pub(crate) async fn stirred_until(&self, last: Instant) -> bool {
        let mut begins = self.0.begins.subscribe();
        let stirred = begins.wait_for(|begins| *begins > Instant::now());
        timeout_at(last, stirred).await.is_ok()
    }

    /// Waits until the broker rests.
    pub(crate) async fn begun(&self) {
        loop {
            let begins = *self.0.begins.borrow();
            if begins <= Instant::now() {
                return;
            }
            sleep_until(begins).await;
        }
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, LastSigns> {
        self.0.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn signs(seen: i64, open_from: i64, begun_until: i64) -> Signs {
        Signs { seen, is_broker_gone: false, open_from, begun_until }
    }

    #[test]
    fn a_sign_holds_until_the_transactions_of_its_moment_have_ended() {
        let held = LeaseSum::default();
        let mut seen = LastSigns::default();
        assert!(seen.note(signs(1, 10, 10), held), "nobody knows what was before");
        assert!(!seen.note(signs(1, 11, 11), held));
        assert!(seen.note(signs(2, 12, 12), held), "something was made");
        assert!(
            seen.note(signs(2, 12, 15), held) && seen.note(signs(2, 14, 20), held),
            "and may not be committed yet"
        );
        assert!(!seen.note(signs(2, 15, 21), held), "a later transaction has a sign of its own");
        assert!(
            seen.note(signs(2, 22, 22), LeaseSum::of([("a", postbell_engine::inbox::Epoch(1))].into_iter()))
        );
        let gone = Signs { is_broker_gone: true, ..signs(2, 23, 23) };
        assert!(seen.note(gone, held) && seen.note(gone, held));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sweep_goes_by_its_clock_until_the_rest_begins_and_at_once_when_the_rest_ends() {
        let rest = Rest::new();
        let start = Instant::now();
        rest.pause(2 * SECOND).await;
        assert_eq!(start.elapsed(), 2 * SECOND);
        rest.begun().await;
        assert_eq!(start.elapsed(), RESTLESS_FOR);
        let sweep = tokio::spawn({
            let rest = rest.clone();
            async move { rest.pause(2 * SECOND).await }
        });
        tokio::time::sleep(30 * SECOND).await;
        assert!(!sweep.is_finished());
        rest.stir();
        sweep.await.expect("ends");
        assert_eq!(start.elapsed(), RESTLESS_FOR + 30 * SECOND);

        rest.begun().await;
        let now = Instant::now();
        rest.turn(now + 2 * SECOND, Some(now + 45 * SECOND)).await;
        assert_eq!(now.elapsed(), 45 * SECOND, "what is known to be due is on time");
        let now = Instant::now();
        rest.turn(now + 2 * SECOND, Some(now + SECOND)).await;
        assert_eq!(now.elapsed(), SECOND);
        let now = Instant::now();
        rest.turn(now + 2 * SECOND, Some(now + 2 * RESTING_MAX)).await;
        assert_eq!(now.elapsed(), 2 * SECOND + RESTING_MAX, "something may have happened without a sign");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_renewal_that_failed_there_are_no_signs_for_a_while() {
        let rest = Rest::new();
        assert!(rest.wants_signs());
        rest.renewal_failed();
        assert!(!rest.wants_signs());
        tokio::time::sleep(BLIND_FOR).await;
        assert!(rest.wants_signs());
    }
}
