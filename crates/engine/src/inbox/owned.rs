//! One inbox: its lanes, who has sessions on it, and how far its ownership is.

mod apart;
mod states;
mod turns;

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::event::{KeyRefill, KeyRows, LaneRefill, LaneRows};
use super::lane::{KnownAs, Lane, ROOM_SCARCE, Room};
use super::order::{Around, KEYS_MAX, KEYS_MAX_SCARCE, OrderingKeys};
use super::{Attempt, DeliveryId, Entry, SessionId};
use postbell_client::message::{LANES, REPLIES};

pub(super) use states::{Ownership, Question};
pub(super) use turns::OLDEST_EVERY;

use states::Reading;

/// Replies that nobody here waits for, on their way to the lanes of their priorities: so many at once, so that their
/// writing delays nobody's acks.
pub(super) const RELANES_MAX: usize = 500;

/// Where a delivery is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// This one, that its ordering key has let go.
    Order(DeliveryId),
    /// This lane.
    Lane(usize),
    /// This reply, in the lane of replies.
    Reply(DeliveryId),
    /// A delivery that waits apart, until a session has nothing else.
    Apart,
}

/// An attempt that left its lane. One attempt can be both: it is given back, the tail brings it again and it is
/// pushed, all before the news of the COMMIT is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unsettled {
    in_flight: u32,
    settling: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) ownership: Ownership,
    pub(super) question: Question,
    lanes: [Lane; LANES],
    pub(super) order: OrderingKeys,
    /// Deliveries that are to be pushed apart, and wait for a session that has nothing else.
    apart: VecDeque<Entry>,
    /// How many replies are on their way to other lanes.
    relaning: usize,
    /// In the order in which they get the next delivery.
    pub(super) sessions: VecDeque<SessionId>,
    unsettled: HashMap<Attempt, Unsettled>,
    /// How many outcomes wait to be written.
    outcomes: usize,
    reading: Reading,
    /// The open round of the tail brought something.
    in_round: bool,
    pushes: u64,
    pushed_at: Option<Instant>,
    /// Since when one of its sessions has had room, without a break.
    room_since: Option<Instant>,
    /// Nothing is at hand though something may wait: since when, and the pushes until then.
    stalled: Option<(Instant, u64)>,
}

impl Inbox {
    /// An inbox whose lease is being asked for.
    pub(super) fn new() -> Self {
        Self {
            ownership: Ownership::Acquiring,
            question: Question::Open,
            lanes: std::array::from_fn(|_| Lane::unread()),
            order: OrderingKeys::default(),
            apart: VecDeque::new(),
            relaning: 0,
            sessions: VecDeque::new(),
            unsettled: HashMap::new(),
            outcomes: 0,
            reading: Reading::Idle,
            in_round: false,
            pushes: 0,
            pushed_at: None,
            room_since: None,
            stalled: None,
        }
    }

    /// Forgets what its lanes hold, to read it anew.
    pub(super) fn forget(&mut self, ownership: Ownership) {
        self.read_anew();
        self.turn_to(ownership);
    }

    fn read_anew(&mut self) {
        self.lanes = std::array::from_fn(|_| Lane::unread_in(self.in_round));
        self.forget_apart();
        self.order.forget(self.in_round);
        self.reading = if self.reading.is_asked() { Reading::Stale } else { Reading::Idle };
    }

    pub(super) fn is_owned(&self) -> bool {
        matches!(self.ownership, Ownership::Owned { .. }) && self.question == Question::None
    }

    pub(super) fn bytes(&self) -> usize {
        let apart: usize = self.apart.iter().map(Entry::cost_bytes).sum();
        self.lanes.iter().map(Lane::bytes).sum::<usize>() + self.order.bytes() + apart
    }

    /// A delivery that the tail brought. True: the first one in this round.
    pub(super) fn arrive(&mut self, entry: Entry, room: Room) -> bool {
        // A second time (an outcome was written twice, or another broker gave it back late): the outcome of the
        // one in flight will match this row as well.
        let first = !std::mem::replace(&mut self.in_round, true);
        if self.is_in_flight(&entry) || self.is_apart(&entry) {
            return first;
        }
        // A reply waits for no other of its key.
        let entry = if entry.lane == REPLIES {
            Some(entry)
        } else {
            let (lanes, order) = (&self.lanes, &mut self.order);
            order.take_back(entry, || Around::of(lanes, true))
        };
        if let Some(entry) = entry.as_ref().filter(|entry| entry.is_left()) {
            self.lanes[entry.lane].leave(entry.attempt.delivery_id);
        } else if let Some(entry) = entry {
            self.lanes[entry.lane].arrive(entry, room);
        }
        first
    }

    /// A round of the tail is whole.
    pub(super) fn end_round(&mut self) {
        self.in_round = false;
        self.lanes.iter_mut().for_each(Lane::end_round);
        self.order.end_round();
    }

    /// The lanes and keys to read on, if it is time; there is one refill of an inbox at a time.
    pub(super) fn begin_refill(&mut self, room: Room) -> (Vec<LaneRefill>, Vec<KeyRefill>) {
        if self.reading != Reading::Idle || !self.is_owned() {
            return Default::default();
        }
        self.keep_keys(room);
        let mut lanes = Vec::new();
        for (position, lane) in self.lanes.iter_mut().enumerate() {
            if lane.wants_refill(room) {
                let (above, rows) = lane.begin_refill(room);
                lanes.push(LaneRefill { lane: position, above, rows });
            }
        }
        let keys = if self.order.is_hungry() {
            let (held, in_round) = (&self.lanes, self.in_round);
            self.order.begin_refill(|| Around::of(held, in_round))
        } else {
            Vec::new()
        };
        if !lanes.is_empty() || !keys.is_empty() {
            self.reading = Reading::Asked { settled: HashSet::new() };
        }
        (lanes, keys)
    }

    /// Too many keys are given up: what of them waits comes by the lanes once more.
    fn keep_keys(&mut self, room: Room) {
        let front = self.lanes.iter().filter_map(Lane::front).min();
        self.order.end_lingering(front.unwrap_or(DeliveryId::MAX));
        let keys_max = if room == ROOM_SCARCE { KEYS_MAX_SCARCE } else { KEYS_MAX };
        if self.order.keep_to(keys_max) {
            self.read_anew();
        }
    }

    /// The answer, by lane and by key.
    pub(super) fn end_refill(&mut self, lanes: Vec<LaneRows>, keys: Vec<KeyRows>, room: Room) {
        let settled = match std::mem::take(&mut self.reading) {
            Reading::Asked { settled } => settled,
            Reading::Stale => return,
            // Nobody asked.
            other => {
                self.reading = other;
                return;
            }
        };
        let (unsettled, apart) = (&self.unsettled, &self.apart);
        let waits = Cell::new(false);
        let is_apart = |attempt: Attempt| apart.iter().any(|entry| entry.attempt == attempt);
        let known = |entry: &Entry| match unsettled.get(&entry.attempt) {
            Some(u) if u.in_flight > 0 => KnownAs::Held,
            None if is_apart(entry.attempt) => KnownAs::Held,
            None if entry.is_left() => KnownAs::Left,
            Some(_) => {
                waits.set(true);
                KnownAs::Settling
            }
            None if settled.contains(&entry.attempt) => KnownAs::Settling,
            None => KnownAs::New,
        };
        let order = &self.order;
        // A key with a lane of its own brings its deliveries by that, those that are being settled as well.
        let in_lane = |entry: &Entry| {
            let is_held = entry.lane != REPLIES && order.holds(entry);
            if is_held { KnownAs::Held } else { known(entry) }
        };
        for LaneRows { lane, asked, rows } in lanes {
            self.lanes[lane].end_refill(rows, asked, room, in_lane);
        }
        self.order.end_refill(keys, known);
        if waits.get() {
            self.reading = Reading::AwaitsSettle;
        }
    }

    pub(super) fn cancel_refill(&mut self) {
        if self.reading.is_asked() {
            self.reading = Reading::Idle;
        }
        for lane in &mut self.lanes {
            lane.cancel_refill();
        }
        self.order.cancel_refill();
    }

    /// A reply is on its way to another lane.
    pub(super) fn relane(&mut self) {
        self.relaning += 1;
    }

    /// A reply has come to its other lane. True: others may follow.
    pub(super) fn relaned(&mut self) -> bool {
        self.relaning = self.relaning.saturating_sub(1);
        !self.lanes[REPLIES].is_empty()
    }

    pub(super) fn may_relane(&self) -> bool {
        self.relaning < RELANES_MAX
    }

    /// An entry was handed to a session. Only pushes count towards the turn of the oldest.
    pub(super) fn pushed(&mut self, now: Instant, entry: &Entry) {
        self.pushes += 1;
        self.pushed_at = Some(now);
        self.unsettled.entry(entry.attempt).or_default().in_flight += 1;
        if entry.lane != REPLIES {
            self.order.pushed(entry);
        }
    }

    /// A session has it no more; its outcome is known.
    pub(super) fn landed(&mut self, attempt: Attempt) {
        let unsettled = self.unsettled.entry(attempt).or_default();
        unsettled.in_flight = unsettled.in_flight.saturating_sub(1);
    }

    /// The attempt's outcome will be written.
    pub(super) fn settling(&mut self, attempt: Attempt) {
        self.unsettled.entry(attempt).or_default().settling += 1;
        self.outcomes += 1;
    }

    /// How many outcomes wait to be written.
    pub(super) fn outcomes(&self) -> usize {
        self.outcomes
    }

    /// An outcome is committed. True: a refill waited for that.
    pub(super) fn settled(&mut self, attempt: Attempt) -> bool {
        let Some(unsettled) = self.unsettled.get_mut(&attempt) else { return false };
        unsettled.settling = unsettled.settling.saturating_sub(1);
        self.outcomes = self.outcomes.saturating_sub(1);
        if *unsettled == Unsettled::default() {
            self.unsettled.remove(&attempt);
        }
        match &mut self.reading {
            Reading::Asked { settled } => {
                settled.insert(attempt);
                false
            }
            Reading::AwaitsSettle => {
                self.reading = Reading::Idle;
                true
            }
            Reading::Idle | Reading::Stale => false,
        }
    }

    /// Takes note whether one of its sessions has room.
    pub(super) fn note_room(&mut self, now: Instant, has_room: bool) {
        self.room_since = has_room.then(|| self.room_since.unwrap_or(now));
    }

    /// How long a delivery has waited for the broker, and not for its agent. A delivery that became ready
    /// before a session had room is a backlog, and waits for those before it: for the broker only while none of them is pushed. A
    /// delivery that its key held back waits for those with the same key.
    pub(super) fn waited(&self, now: Instant, source: Source, entry: &Entry) -> Duration {
        let (Some(room_since), Source::Lane(_) | Source::Reply(_)) = (self.room_since, source) else {
            return Duration::ZERO;
        };
        let ready = entry.ready_for(now);
        if ready <= now.saturating_duration_since(room_since) {
            return ready;
        }
        now.saturating_duration_since(self.pushed_at.map_or(room_since, |at| at.max(room_since)))
    }

    /// The longest wait at this moment, while a session has room. Where nothing is at hand, because the inbox is not owned yet
    /// or its rows do not come, it counts from the first look that found it so, with no push in between.
    pub(super) fn longest_wait(&mut self, now: Instant) -> Duration {
        // A reply may wait for its own process.
        let ordinary = self.lanes.iter().enumerate().filter(|(lane, _)| *lane != REPLIES);
        let fronts = ordinary.filter_map(|(lane, held)| Some((lane, held.first()?)));
        let held = fronts.map(|(lane, entry)| self.waited(now, Source::Lane(lane), entry)).max();
        let may_wait = !self.is_owned() || self.has_unread();
        if held.is_some() || !may_wait {
            self.stalled = None;
            return held.unwrap_or_default();
        }
        let (since, pushes) = self.stalled.unwrap_or((now, self.pushes));
        let since = if pushes == self.pushes { since } else { now };
        self.stalled = Some((since, self.pushes));
        now.saturating_duration_since(since)
    }

    fn is_in_flight(&self, entry: &Entry) -> bool {
        self.unsettled.get(&entry.attempt).is_some_and(|u| u.in_flight > 0)
    }

    /// Whether it can be forgotten, or given back: every delivery that left a lane has its outcome in the table,
    /// and no answer is under way that the inbox's next life would take for its own.
    pub(super) fn is_quiet(&self) -> bool {
        self.unsettled.is_empty() && !self.reading.is_asked() && self.question == Question::None
    }
}

impl Around {
    fn of(lanes: &[Lane; LANES], round_is_open: bool) -> Self {
        Self { newest_held: lanes.iter().filter_map(Lane::back).max().unwrap_or_default(), round_is_open }
    }
}
