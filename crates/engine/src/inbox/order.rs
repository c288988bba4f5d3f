//! Ordering keys: the deliveries of one key are handled one at a time, and the others wait.
//!
//! A key is taken from the push of one of its deliveries to the outcome. After an ack or a dead letter the next
//! delivery may go. A delivery that failed or was given back goes first again. Such a row is written as ready
//! at once, even if the delivery has a delay, so that the next owner of the inbox finds the row in its place; the
//! delay is kept here. The others wait until a tail round has shown the row again.
//!
//! A few waiting deliveries are parked here. A key with more of them, or any key when all keys together have
//! too many, gets a **lane of its own** ([`Key::own`]). That lane holds the oldest deliveries of the key,
//! whatever their priorities, and keeps the invariant of every lane about the rest in the table. From then on
//! the inbox's lanes leave the key out: their refills skip its rows, so a blocked key costs one walk over its
//! rows and no memory, and deliveries of the key that the lanes hold already are dropped when their turn comes.
//! Once the key is free, refills read it by its index. The lane of its own ends when it is empty, has no more,
//! and no lane of the inbox can hold a delivery of the key from before it began.
//!
//! Nothing is known here about an earlier owner: a delivery that was in flight there does not hold back its
//! key.

mod reading;
mod states;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lane::{Lane, Room};
use super::{Attempt, DeliveryId, Entry};

/// The most parked deliveries of one key; one more gives the key a lane of its own. Small in tests, so that
/// they reach it.
pub(super) const KEY_PARKED_MAX: usize = if cfg!(test) { 4 } else { 64 };
/// The most parked deliveries of all keys of an inbox together.
pub(super) const PARKED_MAX: usize = if cfg!(test) { 8 } else { 2_000 };
/// The most bytes of all parked deliveries of an inbox.
pub(super) const PARKED_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The bound for the keys of an inbox: at most so many delays (the one that ends first ends now), and at most
/// twice as many keys, beyond which the free ones are forgotten and the lanes are read anew.
pub(super) const KEYS_MAX: usize = if cfg!(test) { 4 } else { 16_384 };
/// [`KEYS_MAX`] while all lanes together are over their bound.
pub(super) const KEYS_MAX_SCARCE: usize = if cfg!(test) { 2 } else { 256 };
/// The room of a key's own lane: small, because one delivery of the key is handled at a time.
pub(super) const KEY_ROOM: Room = Room { entries: KEY_PARKED_MAX, bytes: 256 * 1024, first_rows: 2 };
/// The memory of a key besides its name and its waiting deliveries.
const KEY_BYTES: usize = 360;

const _: () = assert!(KEY_PARKED_MAX < PARKED_MAX && KEY_ROOM.bytes < PARKED_BYTES_MAX);
const _: () = assert!(KEYS_MAX_SCARCE < KEYS_MAX);

/// `Free` → `InFlight` (pushed, or kept to be pushed apart) → `Free` after an ack or a dead letter. After any
/// other outcome: → `Writing` (being settled) → `Returning` (settled; a tail round that begins later shows the
/// row) → `Delayed` (until the delay ends) → `Free`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    InFlight,
    Writing { id: DeliveryId, delay: Duration },
    Returning { id: DeliveryId, delay: Duration, since: Instant },
    Delayed { id: DeliveryId, until: Instant },
}

/// A lane's position and a delivery id: the order in which deliveries go.
type Turn = (usize, DeliveryId);

/// The list in which a key is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The key waits for an outcome or a delay.
    Nowhere,
    /// The key is free, and this delivery of it may go.
    Ready(Turn),
    /// The key is free, and a refill must read its next delivery, last seen at this turn.
    Hungry(Turn),
    /// The lane of its own is empty and has no more, but the inbox's lanes may still hold deliveries of the key
    /// up to this id.
    Lingering(DeliveryId),
}

#[derive(Debug)]
struct Key {
    state: State,
    /// Parked deliveries, oldest first; or, if `own` is set, the lane of its own.
    waiting: Lane,
    /// Set while the key has a lane of its own: the inbox's lanes hold no delivery of the key above this id.
    own: Option<DeliveryId>,
    /// The turn at which the key's next delivery was last seen.
    hint: Turn,
    place: Place,
}

/// The facts about the inbox that a decision about a key needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Around {
    /// The highest id that any lane of the inbox holds.
    pub(super) newest_held: DeliveryId,
    /// Whether a tail round has brought something for the inbox and has not ended.
    pub(super) round_is_open: bool,
}

/// The ordering keys of one inbox; see the module's page.
#[derive(Debug, Default)]
pub(super) struct OrderingKeys {
    keys: HashMap<Arc<str>, Key>,
    /// The key of each attempt that is in flight, or being settled and tried again.
    taken: HashMap<Attempt, Arc<str>>,
    /// The `Ready` keys: by turn, and by the id of their next delivery.
    ready: BTreeSet<Turn>,
    ready_ids: BTreeMap<DeliveryId, Arc<str>>,
    hungry: BTreeSet<(Turn, Arc<str>)>,
    lingering: BTreeSet<(DeliveryId, Arc<str>)>,
    /// Keys whose failed delivery is settled, in the order of settling.
    returning: VecDeque<(Instant, Arc<str>)>,
    delayed: BTreeSet<(Instant, Arc<str>)>,
    /// Keys for which the open tail round brought something.
    in_round: Vec<Arc<str>>,
    /// Keys that the refill under way reads.
    refilling: Vec<Arc<str>>,
    /// The names of the keys with a lane of their own; `None` until asked for again after a change.
    passed: Option<Arc<[Arc<str>]>>,
    parked: usize,
    parked_bytes: usize,
    key_bytes: usize,
}

impl OrderingKeys {
    /// The memory of keys and parked deliveries, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.parked_bytes + self.key_bytes
    }

    /// Whether no lane needs to hold this delivery: it is parked here, or its key has a lane of its own.
    pub(super) fn holds(&self, entry: &Entry) -> bool {
        let Some(key) = entry.ordering_key().and_then(|key| self.keys.get(key)) else { return false };
        key.own.is_some() || key.waiting.iter().any(|waiting| waiting.attempt == entry.attempt)
    }

    /// The oldest delivery of a priority that its key lets go.
    pub(super) fn ready_in(&self, lane: usize) -> Option<DeliveryId> {
        self.ready.range((lane, DeliveryId::MIN)..=(lane, DeliveryId::MAX)).next().map(|(_, id)| *id)
    }

    /// The oldest delivery of any priority that its key lets go.
    pub(super) fn oldest_ready(&self) -> Option<DeliveryId> {
        self.ready_ids.first_key_value().map(|(id, _)| *id)
    }

    /// The delivery with an id that [`ready_in`](Self::ready_in) or [`oldest_ready`](Self::oldest_ready) gave.
    pub(super) fn ready_entry(&self, id: DeliveryId) -> Option<&Entry> {
        self.keys.get(self.ready_ids.get(&id)?)?.waiting.first()
    }

    /// Takes such a delivery. The caller then calls [`pushed`](Self::pushed) or
    /// [`passed_over`](Self::passed_over) with it.
    pub(super) fn pop(&mut self, id: DeliveryId) -> Option<Entry> {
        let name = self.ready_ids.get(&id)?.clone();
        self.change(&name, |key| {
            let entry = key.waiting.pop();
            if let Some(entry) = &entry {
                key.hint = (entry.lane, entry.attempt.delivery_id);
            }
            // Taken until the caller says what became of the delivery.
            key.state = State::InFlight;
            entry
        })?
    }

    /// Looks at a delivery that a lane gave out. Returns it if it may go; else parks it, or leaves it to the
    /// key's own lane.
    pub(super) fn admit(&mut self, entry: Entry, around: impl Fn() -> Around) -> Option<Entry> {
        let Some(key) = entry.ordering_key().and_then(|key| self.keys.get(key)) else { return Some(entry) };
        if key.own.is_none() {
            self.park(entry, around());
        }
        None
    }

    /// Takes a delivery that the tail brought, if its key waits for just this one (it must not queue behind the
    /// parked ones) or has a lane of its own. Returns any other.
    pub(super) fn take_back(&mut self, entry: Entry, around: impl Fn() -> Around) -> Option<Entry> {
        let Some(name) = entry.ordering_key() else { return Some(entry) };
        let Some(key) = self.keys.get(name) else { return Some(entry) };
        if key.own.is_some() {
            let name = name.clone();
            self.in_round.push(name.clone());
            self.change(&name, |key| match entry.is_left() {
                true => key.waiting.leave(entry.attempt.delivery_id),
                false => key.waiting.arrive(entry, KEY_ROOM),
            });
            self.keep_bound(&name);
            return None;
        }
        match key.state {
            State::Writing { id, .. } | State::Returning { id, .. } | State::Delayed { id, .. }
                if id == entry.attempt.delivery_id && entry.is_left() =>
            {
                // The payload was not read, and the entry must go before the parked ones: a lane of its own reads
                // the whole key.
                let (name, turn) = (name.clone(), (entry.lane, entry.attempt.delivery_id));
                self.give_own_lane(&name, turn, around());
                None
            }
            State::Writing { id, .. } | State::Returning { id, .. } | State::Delayed { id, .. }
                if id == entry.attempt.delivery_id =>
            {
                self.park(entry, around());
                None
            }
            _ => Some(entry),
        }
    }

    fn park(&mut self, entry: Entry, around: Around) {
        let Some(name) = entry.ordering_key().cloned() else { return };
        let turn = (entry.lane, entry.attempt.delivery_id);
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

    /// Gives the key a lane of its own, which reads the key anew. `turn` is the turn of a waiting delivery that
    /// is not parked.
    fn give_own_lane(&mut self, name: &Arc<str>, turn: Turn, around: Around) {
        self.change(name, |key| {
            let first = key.waiting.first().map(|entry| (entry.lane, entry.attempt.delivery_id));
            key.hint = first.map_or(turn, |first| first.min(turn));
            key.waiting = Lane::unread_in(around.round_is_open);
            key.own = Some(around.newest_held);
        });
        if around.round_is_open {
            self.in_round.push(name.clone());
        }
        self.passed = None;
    }

    /// While too much is parked, a lane of its own gives back to the table what it holds.
    fn keep_bound(&mut self, name: &Arc<str>) {
        if self.parked > PARKED_MAX || self.parked_bytes > PARKED_BYTES_MAX {
            self.change(name, |key| {
                if let Some(first) = key.waiting.first() {
                    key.hint = (first.lane, first.attempt.delivery_id);
                }
                key.waiting.give_back();
            });
        }
    }

    /// Changes a key, keeps the counts and lists true, and forgets the key if nothing of it is left.
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

    /// Forgets a key that nothing waits for.
    fn remove(&mut self, name: &Arc<str>) {
        if let Some(key) = self.keys.remove(name) {
            self.unlist(name, key.place);
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
            hint: (usize::MAX, DeliveryId::MAX),
            place: Place::Nowhere,
        }
    }

    /// The list for the key; `None` if nothing of it is left.
    fn find_place(&self) -> Option<Place> {
        if self.state != State::Free {
            return Some(Place::Nowhere);
        }
        match (self.waiting.first(), self.own) {
            (Some(first), _) => Some(Place::Ready((first.lane, first.attempt.delivery_id))),
            (None, Some(_)) if self.waiting.has_more() => Some(Place::Hungry(self.hint)),
            (None, Some(until)) => Some(Place::Lingering(until)),
            (None, None) => None,
        }
    }
}
