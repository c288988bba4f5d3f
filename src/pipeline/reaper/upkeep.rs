//! Keeps the schema as it must be while the broker runs, and leaves no message without its deliveries.
//!
//! Every two seconds one statement takes messages that were written while no trigger of ours fired, and sees whether
//! somebody touched a trigger; if so, all messages are looked at. While the broker rests, the renewal of the lease tells
//! whether that statement has anything to do. The catalogs are compared with the schema that this version needs: at the
//! start, once a minute, and soon after a statement failed in a way that hints at drift. Missing parts are mended. A trigger
//! that somebody switched off stays off: all messages are looked at again and again instead.

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, sleep_until};

use crate::pipeline::rest::Rest;
use crate::store::Pool;
use crate::store::drift::{self, Difference};
use crate::store::migrate::{Plan, migrate};
use crate::store::sweep::{SWEEP_ROWS, Sweeper, look_at_all};
use crate::store::{Connection, StoreError, Target};
use crate::watch::health::{Duty, Health};

/// A message that no trigger saw must be found within five seconds.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// One comparison takes the database a twentieth of a second.
const COMPARE_EVERY: Duration = Duration::from_secs(60);
/// The least time between two comparisons, even while every statement fails, as it may for reasons of the user's.
const COMPARE_MIN: Duration = Duration::from_secs(4);
/// Looking at all messages takes at most one part in this many of the time while a trigger is off.
const LOOK_SHARE: u32 = 20;

const _: () = assert!(SWEEP_EVERY.as_secs() < 5 && COMPARE_MIN.as_secs() < 5);

/// The channels and settings of upkeep.
pub(crate) struct Upkeep {
    /// Connections for the sweep, and for comparisons by the clock.
    pub pool: Pool,
    /// The database, for statements that take long and for mending.
    pub target: Target,
    /// Whether there may be anything to sweep.
    pub rest: Rest,
    /// Wakes the tail when deliveries became ready.
    pub wake: Arc<Notify>,
    /// Learns what has drifted.
    pub health: Health,
}

/// Findings of the last comparison.
#[derive(Default)]
struct Seen {
    said: Vec<String>,
    /// The tables that inherit, as they were told.
    heirs: Vec<String>,
}

impl Upkeep {
    /// Runs until the process ends.
    pub(crate) async fn run(self) {
        tokio::join!(self.sweeps(), self.comparisons());
    }

    async fn sweeps(&self) {
        let mut look_after = Instant::now();
        let mut sweeper = Sweeper::new(self.pool.clone());
        loop {
            self.health.began(Duty::Sweep, Instant::now());
            match self.sweep(&mut sweeper, &mut look_after).await {
                Ok(due) => {
                    self.health.succeeded(Duty::Sweep);
                    let now = Instant::now();
                    self.rest.turn(now + SWEEP_EVERY, due.map(|due| now + due)).await;
                }
                Err(e) => {
                    self.health.failed(Duty::Sweep, e.to_string());
                    tracing::warn!(error = %e, "messages that no trigger saw could not be looked for; trying again");
                    sleep(SWEEP_EVERY).await;
                }
            }
        }
    }

    async fn comparisons(&self) {
        let (mut seen, mut smells) = (Seen::default(), drift::smells());
        loop {
            let is_hinted = smells.has_changed().unwrap_or(false);
            // Before the comparison, because an error during the comparison calls for another one.
            smells.mark_unchanged();
            if let Err(e) = self.compare(&mut seen, is_hinted).await {
                tracing::warn!(error = %e, "the schema could not be compared with what it must be; trying again");
            }
            let compared = Instant::now();
            let pause = if seen.said.is_empty() { COMPARE_EVERY } else { COMPARE_MIN };
            tokio::select! {
                () = sleep_until(compared + pause) => {}
                // A part that is missing stops everybody, so it is not left for the next round.
                () = hint(&smells, compared) => {}
            }
        }
    }

    /// Makes deliveries for messages that no trigger saw. Returns when the next sweep is due, if it has something to do for sure.
    async fn sweep(
        &self,
        sweeper: &mut Sweeper,
        look_after: &mut Instant,
    ) -> Result<Option<Duration>, StoreError> {
        let swept = sweeper.sweep().await;
        self.health.set_left_out(Duty::Sweep, sweeper.left_out());
        let swept = swept?;
        if swept.ready > 0 {
            tracing::info!(deliveries = swept.ready, "made deliveries for messages that no trigger saw");
            self.wake.notify_one();
        }
        if swept.look && Instant::now() >= *look_after {
            let began = Instant::now();
            let ready = look_at_all(&self.target).await?;
            *look_after = Instant::now() + began.elapsed() * LOOK_SHARE;
            if let Some(deliveries) = ready.filter(|n| *n > 0) {
                tracing::info!(
                    deliveries,
                    "triggers had been off: made deliveries for messages that came meanwhile"
                );
                self.wake.notify_one();
            }
        }
        Ok(match swept.took == i64::from(SWEEP_ROWS) {
            true => Some(super::BETWEEN_BATCHES),
            false => swept.look.then_some(SWEEP_EVERY),
        })
    }

    /// Compares the schema; logs what is new, and mends what may be mended. While something is amiss, a connection of the pool might
    /// not be free.
    async fn compare(&self, seen: &mut Seen, is_hinted: bool) -> Result<(), StoreError> {
        let (found, heirs) = match is_hinted || !seen.said.is_empty() {
            true => drift::found(&Connection::open(&self.target).await?).await?,
            false => drift::found(&*self.pool.get().await?).await?,
        };
        // Told, and no standstill: only messages in the table that inherits wait, and everybody else's go on.
        if heirs != seen.heirs {
            heirs.iter().for_each(|heir| tracing::warn!("{heir}"));
            seen.heirs = heirs;
        }
        let sentences: Vec<_> =
            found.iter().filter(|d| !d.is_only_slow()).map(Difference::sentence).collect();
        let is_new = sentences != seen.said;
        seen.said = sentences;
        if seen.said.is_empty() {
            if is_new {
                tracing::info!("the schema is what this version needs again");
            }
            self.health.succeeded(Duty::Schema);
            return Ok(());
        }
        let all = seen.said.join("; ");
        self.health.began(Duty::Schema, Instant::now());
        self.health.failed(Duty::Schema, format!("{all}; `postbell migrate` mends it or says how"));
        if is_new {
            tracing::error!(differences = %all, "the schema has drifted from what this version needs");
        }
        // A missing table of the user's may be about to get another name, so only an operator's `postbell migrate`
        // makes it.
        let is_users_table = |d: &Difference| d.needed.kind == "table" && d.needed.parent.is_empty();
        if found.iter().any(|d| !d.is_only_slow() && !d.is_disabled()) && !found.iter().any(is_users_table) {
            self.mend().await?;
        }
        Ok(())
    }

    async fn mend(&self) -> Result<(), StoreError> {
        let patient = Target { answer_wait: None, ..self.target.clone() };
        let Plan { mends, triggers, left, .. } = migrate(&patient).await?;
        for what in mends {
            tracing::warn!(what, "mended");
        }
        for trigger in triggers {
            tracing::warn!(trigger, "installed anew");
        }
        for what in left {
            tracing::error!(what, "this could not be mended");
        }
        // Prepared statements may name parts that are gone; each connection finds that out itself. The tail is woken
        // to look again.
        self.wake.notify_one();
        Ok(())
    }
}

/// Waits until an error hints at drift and a comparison may be made.
async fn hint(smells: &watch::Receiver<u64>, compared: Instant) {
    // The sender is never dropped.
    if smells.clone().changed().await.is_ok() {
        sleep_until(compared + COMPARE_MIN).await;
    }
}
