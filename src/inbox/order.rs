//! Messages with an ordering key: of each key one is handled at a time, and the others wait here.
//!
//! A key is taken from the push to the outcome. After an ack, or a dead letter, its next message may go. What failed or was
//! given back goes first again: it is written as ready at once, also where it is to be delayed, so that whoever owns the
//! inbox next finds it at its place; the delay is kept here, and the others wait until the table has shown it again.
//!
//! Of another owner's life nothing is known here: what it had in flight is free to be pushed, as without a key.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Entry;
use super::owned::{Attempt, attempt_of};

/// How many may wait here for others of their key; with as many the inbox stops, whatever other keys there are.
pub(super) const PARKED_MAX: usize = 2_000;
/// And bytes.
pub(super) const PARKED_BYTES_MAX: usize = 2 * 1024 * 1024;

/// `Free` → `InFlight` (with an agent) → `Free` if that was its end; else `Writing` (its outcome is being written) →
/// `Returning` (committed then: a round of the tail that begins later shows it) → `Delayed` (nothing before this) → `Free`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    InFlight,
    Writing { id: i64, delay: Duration },
    Returning { id: i64, delay: Duration, since: Instant },
    Delayed { id: i64, until: Instant },
}

#[derive(Debug)]
struct Key {
    state: State,
    /// By delivery id.
    parked: BTreeMap<i64, Entry>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Order {
    keys: HashMap<Arc<str>, Key>,
    /// The keys of what is in flight, or being written to be tried again.
    taken: HashMap<Attempt, Arc<str>>,
    /// Free keys with something parked, in the order in which they became so.
    ready: VecDeque<Arc<str>>,
    delayed: BTreeSet<(Instant, Arc<str>)>,
    parked: usize,
    parked_bytes: usize,
}

impl Order {
    /// What it holds, in memory.
    pub(super) fn bytes(&self) -> usize {
        self.parked_bytes
    }

    /// Whether nothing more can be parked.
    pub(super) fn is_full(&self) -> bool {
        self.parked >= PARKED_MAX || self.parked_bytes >= PARKED_BYTES_MAX
    }

    /// Whether this attempt waits here.
    pub(super) fn holds(&self, entry: &Entry) -> bool {
        let key = entry.ordering_key().and_then(|key| self.keys.get(key));
        key.and_then(|key| key.parked.get(&entry.delivery_id)).is_some_and(|e| e.attempt == entry.attempt)
    }

    /// The size of what [`pop`](Self::pop) would give.
    pub(super) fn front_bytes(&self) -> Option<usize> {
        let (_, entry) = self.keys.get(self.ready.front()?)?.parked.first_key_value()?;
        Some(entry.body.as_ref().map_or(0, |body| body.len()))
    }

    /// The next that its key lets go. Say [`pushed`](Self::pushed) or [`passed_over`](Self::passed_over) of it.
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let key = self.keys.get_mut(&self.ready.pop_front()?)?;
        let (_, entry) = key.parked.pop_first()?;
        self.parked -= 1;
        self.parked_bytes -= entry.cost_bytes();
        Some(entry)
    }

    /// From a lane: gives it back if it may go, else it is parked.
    pub(super) fn admit(&mut self, entry: Entry) -> Option<Entry> {
        let Some(key) = entry.ordering_key().and_then(|key| self.keys.get(key)) else { return Some(entry) };
        if key.state == State::Free && key.parked.is_empty() {
            return Some(entry);
        }
        self.park(entry);
        None
    }

    /// Takes one that the tail has brought, if its key waits for it: it must not queue up behind those parked here.
    pub(super) fn take_back(&mut self, entry: Entry) -> Option<Entry> {
        let key = entry.ordering_key().and_then(|key| self.keys.get(key));
        match key.map(|key| key.state) {
            Some(State::Writing { id, .. } | State::Returning { id, .. } | State::Delayed { id, .. })
                if id == entry.delivery_id =>
            {
                self.park(entry);
                None
            }
            _ => Some(entry),
        }
    }

    fn park(&mut self, entry: Entry) {
        let Some(name) = entry.ordering_key().cloned() else { return };
        let Some(key) = self.keys.get_mut(&name) else { return };
        self.parked += 1;
        self.parked_bytes += entry.cost_bytes();
        if let Some(old) = key.parked.insert(entry.delivery_id, entry) {
            self.parked -= 1;
            self.parked_bytes -= old.cost_bytes();
        }
        // A free key with something parked is among the ready ones already.
        debug_assert!(key.state != State::Free || key.parked.len() > 1);
    }

    /// It is with an agent.
    pub(super) fn pushed(&mut self, entry: &Entry) {
        let Some(name) = entry.ordering_key() else { return };
        let key = self.keys.entry(name.clone()).or_insert_with(Key::free);
        key.state = State::InFlight;
        self.taken.insert(attempt_of(entry), name.clone());
    }

    /// It ended without an agent.
    pub(super) fn passed_over(&mut self, entry: &Entry) {
        if let Some(name) = entry.ordering_key().cloned() {
            self.free(&name);
        }
    }

    /// Its outcome will be written; `again`: it is tried again, after so long. True: this is seen to here.
    pub(super) fn settling(&mut self, attempt: Attempt, again: Option<Duration>) -> bool {
        let Some(name) = self.taken.get(&attempt).cloned() else { return false };
        match (again, self.keys.get_mut(&name)) {
            (Some(delay), Some(key)) => {
                key.state = State::Writing { id: attempt.0, delay };
                true
            }
            _ => {
                self.taken.remove(&attempt);
                self.free(&name);
                false
            }
        }
    }

    /// An outcome is committed. True: a round of the tail that begins after `now` brings it again.
    pub(super) fn settled(&mut self, now: Instant, attempt: Attempt) -> bool {
        let Some(name) = self.taken.get(&attempt) else { return false };
        let Some(key) = self.keys.get_mut(name) else { return false };
        let State::Writing { id, delay } = key.state else { return false };
        key.state = State::Returning { id, delay, since: now };
        self.taken.remove(&attempt);
        true
    }

    /// A round of the tail is whole. True: it began too early for some.
    pub(super) fn round(&mut self, started_at: Instant) -> bool {
        let mut early = false;
        let mut back = Vec::new();
        for (name, key) in &mut self.keys {
            let State::Returning { id, delay, since } = key.state else { continue };
            if since > started_at {
                early = true;
                continue;
            }
            let until = since + delay;
            key.state = State::Delayed { id, until };
            back.push((until, name.clone()));
        }
        self.delayed.extend(back);
        early
    }

    /// When [`wake`](Self::wake) is due.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// Frees the keys whose delay has passed.
    pub(super) fn wake(&mut self, now: Instant) {
        while self.delayed.first().is_some_and(|(at, _)| *at <= now) {
            let Some((at, name)) = self.delayed.pop_first() else { return };
            let state = self.keys.get(&name).map(|key| key.state);
            if matches!(state, Some(State::Delayed { until, .. }) if until == at) {
                self.free(&name);
            }
        }
    }

    fn free(&mut self, name: &Arc<str>) {
        let Some(key) = self.keys.get_mut(name) else { return };
        key.state = State::Free;
        if key.parked.is_empty() {
            self.keys.remove(name);
        } else {
            self.ready.push_back(name.clone());
        }
    }

    /// Forgets what is parked, which is read from the table anew; not who is busy.
    pub(super) fn forget(&mut self) {
        self.ready.clear();
        (self.parked, self.parked_bytes) = (0, 0);
        self.keys.retain(|_, key| {
            key.parked.clear();
            key.state != State::Free
        });
    }
}

impl Key {
    fn free() -> Self {
        Self { state: State::Free, parked: BTreeMap::new() }
    }
}
