//! Messages with an ordering key: of each key one is handled at a time, and the others wait.
//!
//! A key is taken from the push to the outcome. After an ack, or a dead letter, its next message may go. What failed or was
//! given back goes first again: it is written as ready at once, also where it is to be delayed, so that whoever owns the
//! inbox next finds it at its place; the delay is kept here, and the others wait until the table has shown it again.
//!
//! A few of those that wait are parked here. Where a key has more, or all keys together, it gets a **lane of its own**
//! ([`Key::own`]): that lane holds the oldest of the key, whatever their priorities, and knows what of the key is left in the
//! table, by the invariant of every lane. From then on the inbox's lanes pass the key over: their refills leave it out, so
//! that a blocked key costs one walk over its rows and no memory, and what of it they hold already is dropped when its turn
//! comes. It is read on by the key's index once the key is free. The lane of its own ends when all was given out, and no
//! lane of the inbox can hold one of its deliveries from before any more.
//!
//! Of another owner's life nothing is known here: what it had in flight is free to be pushed, as without a key.

mod reading;
mod states;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Entry;
use super::lane::{Lane, Room};
use super::owned::Attempt;

/// How many of one key may wait here before it gets a lane of its own. Few in tests, so that they come to that.
pub(super) const KEY_PARKED_MAX: usize = if cfg!(test) { 4 } else { 64 };
/// And of all keys of an inbox together.
pub(super) const PARKED_MAX: usize = if cfg!(test) { 8 } else { 2_000 };
/// And bytes.
pub(super) const PARKED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How many keys of an inbox may be known at once. Beyond it the delay that ends first ends now, and lanes of keys are given up.
pub(super) const KEYS_MAX: usize = if cfg!(test) { 4 } else { 16_384 };
/// The same while all lanes together are over their bound.
pub(super) const KEYS_MAX_SCARCE: usize = if cfg!(test) { 2 } else { 256 };
/// The room of a key's own lane: one of the key is handled at a time.
pub(super) const KEY_ROOM: Room = Room { entries: KEY_PARKED_MAX, bytes: 256 * 1024, first_rows: 2 };
/// What a key costs in memory beside its name and what waits.
const KEY_BYTES: usize = 360;

const _: () = assert!(KEY_PARKED_MAX < PARKED_MAX && KEY_ROOM.bytes < PARKED_BYTES_MAX);
const _: () = assert!(KEYS_MAX_SCARCE < KEYS_MAX);

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

/// A priority's lane, and an id in it: the order in which deliveries go.
type Turn = (usize, i64);

/// Where a key is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It waits for an outcome or a delay.
    Nowhere,
    /// This one of it may go.
    Ready(Turn),
    /// It is free, and to be read on; its next one was last seen here.
    Hungry(Turn),
    /// All was given out, and lanes may still hold ids of it up to this one.
    Lingering(i64),
}

#[derive(Debug)]
struct Key {
    state: State,
    /// Some of those that wait; with a lane of its own, by the invariant of a lane.
    waiting: Lane,
    /// It has a lane of its own. The lanes of the inbox hold none of its deliveries above this id.
    own: Option<i64>,
    /// Where its next one was last seen.
    hint: Turn,
    place: Place,
}

/// What of the inbox decides about a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    /// The highest id that a lane holds.
    pub(super) newest_held: i64,
    /// The tail is within a round.
    pub(super) round_is_open: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Order {
    keys: HashMap<Arc<str>, Key>,
    /// The keys of what is in flight, or being written to be tried again.
    taken: HashMap<Attempt, Arc<str>>,
    /// Free keys with something that may go, by its turn, and by its id.
    ready: BTreeSet<Turn>,
    ready_ids: BTreeMap<i64, Arc<str>>,
    hungry: BTreeSet<(Turn, Arc<str>)>,
    lingering: BTreeSet<(i64, Arc<str>)>,
    /// Keys whose failed message is committed, in that order.
    returning: VecDeque<(Instant, Arc<str>)>,
    delayed: BTreeSet<(Instant, Arc<str>)>,
    /// Keys to which the open round of the tail brought something.
    in_round: Vec<Arc<str>>,
    /// Keys that the refill under way reads.
    refilling: Vec<Arc<str>>,
    /// The names of those with a lane of their own, made when they are asked for.
    passed: Option<Arc<[Arc<str>]>>,
    parked: usize,
    parked_bytes: usize,
    key_bytes: usize,
}

impl Order {
    /// What it costs in memory.
    pub(super) fn bytes(&self) -> usize {
        self.parked_bytes + self.key_bytes
    }

    /// Whether this attempt waits here, or will be read here: no lane needs it.
    pub(super) fn holds(&self, entry: &Entry) -> bool {
        let Some(key) = entry.ordering_key().and_then(|key| self.keys.get(key)) else { return false };
        key.own.is_some()
            || key.waiting.iter().any(|e| e.delivery_id == entry.delivery_id && e.attempt == entry.attempt)
    }

    /// The next that its key lets go, of one priority.
    pub(super) fn ready_in(&self, lane: usize) -> Option<i64> {
        self.ready.range((lane, i64::MIN)..=(lane, i64::MAX)).next().map(|(_, id)| *id)
    }

    /// The oldest that its key lets go.
    pub(super) fn oldest_ready(&self) -> Option<i64> {
        self.ready_ids.first_key_value().map(|(id, _)| *id)
    }

    /// One of those.
    pub(super) fn ready_entry(&self, id: i64) -> Option<&Entry> {
        self.keys.get(self.ready_ids.get(&id)?)?.waiting.first()
    }

    /// Takes it. Say [`pushed`](Self::pushed) or [`passed_over`](Self::passed_over) of it.
    pub(super) fn pop(&mut self, id: i64) -> Option<Entry> {
        let name = self.ready_ids.get(&id)?.clone();
        self.change(&name, |key| {
            let entry = key.waiting.pop();
            if let Some(entry) = &entry {
                key.hint = (entry.lane, entry.delivery_id);
            }
            // Until it is said what became of it.
            key.state = State::InFlight;
            entry
        })?
    }

    /// From a lane: gives it back if it may go. Else it is parked, or its key's own lane has it.
    pub(super) fn admit(&mut self, entry: Entry, around: impl Fn() -> Around) -> Option<Entry> {
        let Some(key) = entry.ordering_key().and_then(|key| self.keys.get(key)) else { return Some(entry) };
        if key.own.is_none() {
            self.park(entry, around());
        }
        None
    }

    /// Takes one that the tail has brought, if its key waits for it, since it must not queue up behind those parked here, or
    /// if its key has a lane of its own.
    pub(super) fn take_back(&mut self, entry: Entry, around: impl Fn() -> Around) -> Option<Entry> {
        let Some(name) = entry.ordering_key() else { return Some(entry) };
        let Some(key) = self.keys.get(name) else { return Some(entry) };
        if key.own.is_some() {
            let name = name.clone();
            self.in_round.push(name.clone());
            self.change(&name, |key| match entry.is_left() {
                true => key.waiting.leave(entry.delivery_id),
                false => key.waiting.arrive(entry, KEY_ROOM),
            });
            self.keep_bound(&name);
            return None;
        }
        match key.state {
            State::Writing { id, .. } | State::Returning { id, .. } | State::Delayed { id, .. }
                if id == entry.delivery_id && entry.is_left() =>
            {
                // It was not read, and must go before those parked: all of the key is read by its own lane.
                let (name, turn) = (name.clone(), (entry.lane, entry.delivery_id));
                self.give_own_lane(&name, turn, around());
                None
            }
            State::Writing { id, .. } | State::Returning { id, .. } | State::Delayed { id, .. }
                if id == entry.delivery_id =>
            {
                self.park(entry, around());
                None
            }
            _ => Some(entry),
        }
    }

    fn park(&mut self, entry: Entry, around: Around) {
        let Some(name) = entry.ordering_key().cloned() else { return };
        let turn = (entry.lane, entry.delivery_id);
        let is_full =
            |key: &Key| key.waiting.len() >= KEY_PARKED_MAX || key.waiting.bytes() >= KEY_ROOM.bytes;
        if self.keys.get(&name).is_some_and(is_full) || self.is_over() {
            self.give_own_lane(&name, turn, around);
        } else {
            self.change(&name, |key| key.waiting.put(entry));
        }
    }

    fn is_over(&self) -> bool {
        self.parked >= PARKED_MAX || self.parked_bytes >= PARKED_BYTES_MAX
    }

    /// All of it is read anew, by its key. `turn`: of one that waits and is not parked.
    fn give_own_lane(&mut self, name: &Arc<str>, turn: Turn, around: Around) {
        self.change(name, |key| {
            let first = key.waiting.first().map(|entry| (entry.lane, entry.delivery_id));
            key.hint = first.map_or(turn, |first| first.min(turn));
            key.waiting = Lane::unread_in(around.round_is_open);
            key.own = Some(around.newest_held);
        });
        if around.round_is_open {
            self.in_round.push(name.clone());
        }
        self.passed = None;
    }

    /// Where too much is parked, an own lane leaves what it holds in the table.
    fn keep_bound(&mut self, name: &Arc<str>) {
        if self.parked > PARKED_MAX || self.parked_bytes > PARKED_BYTES_MAX {
            self.change(name, |key| {
                if let Some(first) = key.waiting.first() {
                    key.hint = (first.lane, first.delivery_id);
                }
                key.waiting.give_back();
            });
        }
    }

    /// Changes a key and keeps what is counted and listed true; one that has nothing left is forgotten.
    fn change<R>(&mut self, name: &Arc<str>, change: impl FnOnce(&mut Key) -> R) -> Option<R> {
        let key = self.keys.get_mut(name)?;
        let (parked, bytes, place) = (key.waiting.len(), key.waiting.bytes(), key.place);
        let result = change(key);
        let new_place = key.find_place();
        let is_over = new_place.is_none();
        key.place = new_place.unwrap_or(Place::Nowhere);
        self.parked = self.parked - parked + key.waiting.len();
        self.parked_bytes = self.parked_bytes - bytes + key.waiting.bytes();
        let new_place = key.place;
        if new_place != place {
            self.unlist(name, place);
            self.list(name, new_place);
        }
        if is_over {
            self.remove(name);
        }
        Some(result)
    }

    fn list(&mut self, name: &Arc<str>, place: Place) {
        match place {
            Place::Nowhere => {}
            Place::Ready(turn) => {
                self.ready.insert(turn);
                self.ready_ids.insert(turn.1, name.clone());
            }
            Place::Hungry(turn) => {
                self.hungry.insert((turn, name.clone()));
            }
            Place::Lingering(until) => {
                self.lingering.insert((until, name.clone()));
            }
        }
    }

    fn unlist(&mut self, name: &Arc<str>, place: Place) {
        match place {
            Place::Nowhere => {}
            Place::Ready(turn) => {
                self.ready.remove(&turn);
                self.ready_ids.remove(&turn.1);
            }
            Place::Hungry(turn) => {
                self.hungry.remove(&(turn, name.clone()));
            }
            Place::Lingering(until) => {
                self.lingering.remove(&(until, name.clone()));
            }
        }
    }

    fn key(&mut self, name: &Arc<str>) {
        if !self.keys.contains_key(name) {
            self.key_bytes += KEY_BYTES + name.len();
            self.keys.insert(name.clone(), Key::taken());
        }
    }

    fn remove(&mut self, name: &Arc<str>) {
        if let Some(key) = self.keys.remove(name) {
            self.unlist(name, key.place);
            self.parked -= key.waiting.len();
            self.parked_bytes -= key.waiting.bytes();
            self.key_bytes -= KEY_BYTES + name.len();
            if key.own.is_some() {
                self.passed = None;
            }
        }
    }
}

impl Key {
    fn taken() -> Self {
        Self {
            state: State::InFlight,
            waiting: Lane::default(),
            own: None,
            hint: (usize::MAX, i64::MAX),
            place: Place::Nowhere,
        }
    }

    /// `None`: nothing of it is left.
    fn find_place(&self) -> Option<Place> {
        if self.state != State::Free {
            return Some(Place::Nowhere);
        }
        match (self.waiting.first(), self.own) {
            (Some(first), _) => Some(Place::Ready((first.lane, first.delivery_id))),
            (None, Some(_)) if self.waiting.has_more() => Some(Place::Hungry(self.hint)),
            (None, Some(until)) => Some(Place::Lingering(until)),
            (None, None) => None,
        }
    }
}
