//! The schema stays what it must be while the broker runs, and no message stays without its deliveries.
//!
//! Every two seconds one statement takes what was written while no trigger of ours fired, and sees whether somebody touched a
//! trigger; then all messages are looked at. The catalogs are compared with what this version needs at the start, now and then,
//! and soon after a statement failed in a way that hints at it. What is missing is mended; a trigger that somebody switched
//! off is not switched on behind his back: all messages are looked at again and again instead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

use crate::store::Pool;
use crate::store::drift::{self, Difference};
use crate::store::migrate::{Plan, migrate};
use crate::store::sweep::{SWEEP_ROWS, look_at_all, sweep};
use crate::store::{Connection, StoreError, Target};
use crate::watch::health::{Duty, Health};

/// What no trigger saw is found within five seconds.
const SWEEP_EVERY: Duration = Duration::from_secs(2);
/// The comparison takes the database a twentieth of a second.
const COMPARE_EVERY: Duration = Duration::from_secs(60);
/// Also where each statement fails, as it may for reasons of the user's.
const COMPARE_MIN: Duration = Duration::from_secs(4);
/// Of the time, at most this share goes into looking at all messages while a trigger is off.
const LOOK_SHARE: u32 = 20;

const _: () = assert!(SWEEP_EVERY.as_secs() < 5 && COMPARE_MIN.as_secs() < 5);

/// What upkeep needs of the others.
pub struct Upkeep {
    /// For the sweep.
    pub pool: Pool,
    /// For what takes long, and for what is mended.
    pub target: Target,
    /// Told that something became ready.
    pub wake: Arc<Notify>,
    /// Told what has drifted.
    pub health: Health,
}

/// What was seen last.
struct Seen {
    compared: Option<Instant>,
    /// How many errors had smelled of drift then.
    smells: u64,
    said: Vec<String>,
    look_after: Instant,
}

impl Upkeep {
    /// Keeps up, for ever.
    pub async fn run(self) {
        let mut seen =
            Seen { compared: None, smells: drift::smells(), said: Vec::new(), look_after: Instant::now() };
        loop {
            let pause = match self.sweep(&mut seen).await {
                Ok(again) => again,
                Err(e) => {
                    tracing::warn!(error = %e, "messages that no trigger saw could not be looked for; trying again");
                    SWEEP_EVERY
                }
            };
            // Before the comparison: an error during it calls for another.
            let smells = drift::smells();
            let hinted = smells != seen.smells;
            let since = seen.compared.map(|at| at.elapsed());
            if since.is_none_or(|since| {
                since >= COMPARE_EVERY || (hinted || !seen.said.is_empty()) && since >= COMPARE_MIN
            }) {
                if let Err(e) = self.compare(&mut seen).await {
                    tracing::warn!(error = %e, "the schema could not be compared with what it must be; trying again");
                }
                (seen.compared, seen.smells) = (Some(Instant::now()), smells);
            }
            sleep(pause).await;
        }
    }

    /// Makes up for what no trigger saw; says how soon to go on.
    async fn sweep(&self, seen: &mut Seen) -> Result<Duration, StoreError> {
        let swept = sweep(&self.pool).await?;
        if swept.ready > 0 {
            tracing::info!(deliveries = swept.ready, "made deliveries for messages that no trigger saw");
            self.wake.notify_one();
        }
        if swept.look && Instant::now() >= seen.look_after {
            let began = Instant::now();
            let ready = look_at_all(&self.target).await?;
            seen.look_after = Instant::now() + began.elapsed() * LOOK_SHARE;
            if let Some(deliveries) = ready.filter(|n| *n > 0) {
                tracing::info!(
                    deliveries,
                    "triggers had been off: made deliveries for messages that came meanwhile"
                );
                self.wake.notify_one();
            }
        }
        Ok(if swept.took == i64::from(SWEEP_ROWS) { super::BETWEEN_BATCHES } else { SWEEP_EVERY })
    }

    /// Compares; says what is new, and mends what may be mended.
    async fn compare(&self, seen: &mut Seen) -> Result<(), StoreError> {
        let connection = Connection::open(&self.target).await?;
        let found = drift::differences(&connection).await?;
        drop(connection);
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
        // A table of the user's that is gone may be on its way to another name: `postbell migrate` makes it, on purpose.
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
        // What each connection prepared may name what is gone: they see for themselves, and this one's caller looks again.
        self.wake.notify_one();
        Ok(())
    }
}
