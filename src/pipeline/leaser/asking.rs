//! Inboxes that are asked for or given back: how many by one statement, and the ones whose lease was refused. Pure.
//!
//! A lease that is refused by itself (somebody's trigger on `postbell.leases`, a lock on its row) waits apart and is tried
//! again by itself, so nobody waits for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::pipeline::dispatch::LeaseRequest;
use crate::store::StoreError;
use crate::store::lease::LeaseSum;
use postbell_engine::inbox::Epoch;
use postbell_engine::inbox::event::Trouble;

/// The wait before asking again for an inbox whose owner is another broker that cannot be linked to.
pub(super) const ASK_AGAIN: Duration = Duration::from_millis(250);
/// The most inboxes in one statement, so that none takes long.
const PART_MAX: usize = 1_000;
/// How often one of the leases that were refused is tried again.
const REFUSED_EVERY: Duration = Duration::from_secs(1);

/// A part of what is asked, for one statement.
pub(super) enum Part {
    GiveBack(Vec<(Arc<str>, Epoch)>),
    Acquire(Vec<Arc<str>>),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::GiveBack(inboxes) => inboxes.len(),
            Self::Acquire(inboxes) => inboxes.len(),
        }
    }
}

/// Requests that are not answered yet.
pub(super) struct Asked {
    /// Sorted, since two brokers that lock the same rows in different orders would deadlock.
    pub(super) acquire: BTreeMap<Arc<str>, Option<Trouble>>,
    pub(super) release: HashSet<Arc<str>>,
    /// The epochs of the inboxes that this broker has, as the answers said.
    pub(super) epochs: HashMap<Arc<str>, Epoch>,
    /// Inboxes whose owner is not known: asked for again only every `ASK_AGAIN`.
    pub(super) unknown_owner: HashSet<Arc<str>>,
    pub(super) refusals: Refusals,
    /// How many inboxes one statement is for: half as many after one that was refused, and twice as many after another.
    size: usize,
    /// The end of this broker's lease, if the last renewal was answered.
    pub(super) until: Option<Instant>,
}

/// Inboxes whose lease the table refused.
pub(super) struct Refusals {
    pub(super) inboxes: BTreeMap<Arc<str>, Option<Trouble>>,
    pub(super) why: String,
    /// When one of them is tried again: the one after `probed`, so that each has its turn.
    due: Instant,
    probed: Option<Arc<str>>,
    /// One of them is being tried.
    is_probing: bool,
    pub(super) said: Option<Instant>,
}

impl Refusals {
    /// Takes the one whose turn it is.
    fn probe(&mut self, now: Instant) -> Option<(Arc<str>, Option<Trouble>)> {
        if self.due > now {
            return None;
        }
        self.due = now + REFUSED_EVERY;
        let after = self.probed.take().and_then(|probed| {
            let mut later = self.inboxes.range((Bound::Excluded(probed), Bound::Unbounded));
            later.next().map(|(inbox, _)| inbox.clone())
        });
        let inbox = after.or_else(|| self.inboxes.keys().next().cloned())?;
        self.probed = Some(inbox.clone());
        self.is_probing = true;
        self.inboxes.remove_entry(&inbox)
    }
}

/// Leases of which this broker and the table say something else.
pub(super) struct Differing {
    /// This broker has them, and the table says that it has not.
    pub(super) lost: HashSet<Arc<str>>,
    /// The other way round.
    pub(super) unknown: Vec<(Arc<str>, Epoch)>,
}

impl Asked {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            acquire: BTreeMap::new(),
            release: HashSet::new(),
            epochs: HashMap::new(),
            unknown_owner: HashSet::new(),
            refusals: Refusals {
                inboxes: BTreeMap::new(),
                why: String::new(),
                due: now,
                probed: None,
                is_probing: false,
                said: None,
            },
            size: PART_MAX,
            until: None,
        }
    }

    pub(super) fn held(&self) -> LeaseSum {
        LeaseSum::of(self.epochs.iter().map(|(inbox, epoch)| (&**inbox, *epoch)))
    }

    pub(super) fn note(&mut self, request: LeaseRequest) {
        match request {
            // The inbox was asked for a moment ago, and is asked for again soon.
            LeaseRequest::Acquire(inbox, _) if self.waits(&inbox) => {}
            LeaseRequest::Acquire(inbox, trouble) => {
                self.acquire.insert(inbox, trouble);
            }
            LeaseRequest::GiveBack(inbox) => {
                self.refusals.inboxes.remove(&inbox);
                self.release.insert(inbox);
            }
        }
    }

    fn waits(&self, inbox: &Arc<str>) -> bool {
        self.unknown_owner.contains(inbox) || self.refusals.inboxes.contains_key(inbox)
    }

    pub(super) fn has_unknown_owners(&self) -> bool {
        !self.unknown_owner.is_empty()
    }

    pub(super) fn ask_again(&mut self) {
        self.acquire.extend(self.unknown_owner.drain().map(|inbox| (inbox, None)));
    }

    /// Compares what this broker knows with the table.
    pub(super) fn compared_with(&self, table: &HashMap<Arc<str>, Epoch>) -> Differing {
        let is_lost = |(inbox, epoch): &(&Arc<str>, &Epoch)| {
            table.get(*inbox) != Some(*epoch) && !self.release.contains(*inbox)
        };
        let lost = self.epochs.iter().filter(is_lost).map(|(inbox, _)| inbox.clone()).collect();
        // An answer about an inbox that is being asked for may have been lost with a connection.
        let is_asked =
            |inbox: &Arc<str>| self.acquire.contains_key(inbox) || self.refusals.inboxes.contains_key(inbox);
        let is_unknown = |(inbox, epoch): &(&Arc<str>, &Epoch)| {
            self.epochs.get(*inbox) != Some(*epoch) && !is_asked(inbox)
        };
        let unknown = table.iter().filter(is_unknown).map(|(inbox, epoch)| (inbox.clone(), *epoch));
        Differing { lost, unknown: unknown.collect() }
    }

    pub(super) fn forget(&mut self, lost: &HashSet<Arc<str>>) {
        self.epochs.retain(|inbox, _| !lost.contains(inbox));
    }

    /// The part that the next statement is for. One that was refused by itself is tried by itself, so that nobody waits for it.
    pub(super) fn next_part(&mut self, now: Instant) -> Option<Part> {
        if !self.release.is_empty() {
            // An inbox without an epoch was never taken, so there is nothing to give back.
            let epoch = |inbox: &Arc<str>| self.epochs.get(inbox).copied().unwrap_or(Epoch::NEVER);
            let some = self.release.iter().take(self.size);
            return Some(Part::GiveBack(some.map(|inbox| (inbox.clone(), epoch(inbox))).collect()));
        }
        if self.acquire.is_empty() {
            self.acquire.extend(self.refusals.probe(now));
        }
        let some: Vec<_> = self.acquire.keys().take(self.size).cloned().collect();
        (!some.is_empty()).then_some(Part::Acquire(some))
    }

    /// A statement was carried out. If one that was refused before is taken now, so may all others be.
    pub(super) fn answered(&mut self) {
        self.size = (self.size * 2).min(PART_MAX);
        if std::mem::take(&mut self.refusals.is_probing) {
            self.acquire.append(&mut self.refusals.inboxes);
        }
    }

    /// A statement was refused. An inbox that was alone in it waits apart, or counts as given back: the next comparison
    /// finds its lease. Returns the inbox that counts as given back.
    pub(super) fn refused(&mut self, now: Instant, part: Part, why: &StoreError) -> Option<Arc<str>> {
        self.size = (part.len() / 2).max(1);
        self.refusals.is_probing = false;
        if part.len() > 1 {
            return None;
        }
        match part {
            Part::GiveBack(inboxes) => {
                let (inbox, _) = inboxes.into_iter().next()?;
                self.release.remove(&inbox);
                self.epochs.remove(&inbox);
                Some(inbox)
            }
            Part::Acquire(inboxes) => {
                let inbox = inboxes.into_iter().next()?;
                let trouble = self.acquire.remove(&inbox).flatten();
                self.refusals.inboxes.insert(inbox, trouble);
                self.refusals.why = why.to_string();
                self.refusals.due = now + REFUSED_EVERY;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
