//! Outcomes that can be written nowhere: the user's row is refused, or was not looked at, and a part of Postbell's own
//! tables does not take the change either (somebody's trigger, a lost index, a lock). They wait here, count as
//! unsettled, and are tried again apart from all others. Further outcomes of their inboxes wait beside them, so that
//! nobody else's share a statement with these.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Desk, SAY_EVERY, SETTLE_BATCH_MAX, leaves_doubt, one_by_one};
use crate::base::names::few;
use crate::base::pace::Pace;
use crate::store::StoreError;
use crate::store::cut_off::ENDED;
use crate::store::drift;
use crate::store::settle::{Kind, Settled, relane_each, settle_untried};
use postbell_engine::inbox::event::Settle;

/// The first and the longest wait before they are tried again. One try may take most of a second, in which nobody's
/// outcome is written.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(5);
/// The most inboxes that a sentence names.
const NAMED_MAX: usize = 3;

/// The outcomes that wait.
pub(super) struct Hurt {
    /// The ones that were refused last are at the back.
    waiting: VecDeque<Settle>,
    inboxes: BTreeSet<Arc<str>>,
    until: Instant,
    pace: Pace,
    why: String,
    /// A try may have been committed though its answer was lost.
    in_doubt: bool,
    said: Option<Instant>,
}

impl Hurt {
    /// Nothing waits yet.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            inboxes: BTreeSet::new(),
            until: now,
            pace: Pace::new(AGAIN_FIRST, AGAIN_MAX),
            why: String::new(),
            in_doubt: false,
            said: None,
        }
    }

    /// When the next try is due, if anything waits.
    pub(super) fn until(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.until)
    }

    /// Returns the batch without the outcomes of inboxes of which some wait. These wait, too.
    pub(super) fn keep_apart(&mut self, batch: Vec<Settle>) -> Vec<Settle> {
        if self.waiting.is_empty() {
            return batch;
        }
        let (apart, others) = batch.into_iter().partition(|s| self.inboxes.contains(&s.inbox));
        let apart: Vec<_> = apart;
        self.waiting.extend(apart);
        others
    }

    /// Takes the outcomes that are due.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Settle> {
        if self.waiting.is_empty() || now < self.until {
            return Vec::new();
        }
        let n = self.waiting.len().min(SETTLE_BATCH_MAX);
        self.waiting.drain(..n).collect()
    }

    /// Adds outcomes that can be written nowhere, and logs that at most once in `SAY_EVERY`.
    pub(super) fn add(&mut self, refused: Vec<Settle>, why: String) {
        if refused.is_empty() {
            return;
        }
        // The parts that are missing are soon mended: see src/pipeline/reaper/upkeep.rs.
        drift::note_smell();
        if self.waiting.is_empty() {
            self.until = Instant::now() + self.pace.next_wait();
        }
        self.inboxes.extend(refused.iter().map(|s| s.inbox.clone()));
        self.waiting.extend(refused);
        self.why = why;
        if self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            self.said = Some(Instant::now());
            let (outcomes, inboxes) = (self.waiting.len(), self.named());
            tracing::warn!(
                outcomes,
                inboxes,
                why = self.why,
                "outcomes can be written nowhere and wait in memory; they are tried again, and others are written"
            );
        }
    }

    /// Takes back what a try left; `is_better`: something of it was written; `is_all_over`: all of it, so the cause is
    /// gone and nothing that waits needs to wait longer.
    pub(super) fn tried(&mut self, left: Vec<Settle>, is_better: bool, is_all_over: bool) {
        for settle in left.into_iter().rev() {
            self.waiting.push_front(settle);
        }
        if is_better {
            self.pace.reset();
        }
        self.inboxes = self.waiting.iter().map(|s| s.inbox.clone()).collect();
        self.until = Instant::now() + if is_all_over { Duration::ZERO } else { self.pace.next_wait() };
        self.in_doubt &= !self.waiting.is_empty();
    }

    /// How many wait, and a sentence for an operator.
    pub(super) fn report(&self) -> Option<(usize, String)> {
        let n = self.waiting.len();
        (n > 0).then(|| {
            let (inboxes, why) = (self.named(), &self.why);
            (
                n,
                format!(
                    "{n} outcomes ({inboxes}) can be written nowhere and are tried again, while all others are written: {why}."
                ),
            )
        })
    }

    fn named(&self) -> String {
        few(&self.inboxes, NAMED_MAX)
    }
}

impl Desk {
    /// Tries outcomes that could be written nowhere. A failure is theirs: nobody else waits for another try.
    pub(super) async fn try_hurt(&mut self, broker: Uuid, batch: &[Settle]) -> Settled {
        let tried = self.try_hurt_once(broker, batch).await;
        match tried {
            Ok(mut settled) => {
                if self.hurt.in_doubt {
                    settled.count_stale_as_written();
                }
                settled
            }
            Err(e) => {
                if leaves_doubt(&e) {
                    self.hurt.in_doubt = true;
                    self.connection.rest();
                }
                Settled::all_hurt(batch.len(), &e)
            }
        }
    }

    /// The batch is of one kind, so that lanes are apart.
    async fn try_hurt_once(&mut self, broker: Uuid, batch: &[Settle]) -> Result<Settled, StoreError> {
        let connection = self.connection.get().await?;
        if batch.iter().any(|s| !Kind::of(&s.outcome).marks()) {
            return relane_each(connection, broker, batch).await;
        }
        match one_by_one(connection, broker, batch).await {
            Err(e) if e.is_cut_off() => {
                self.hurt.in_doubt = true;
                settle_untried(self.connection.get().await?, broker, batch, ENDED).await
            }
            tried => tried,
        }
    }
}
