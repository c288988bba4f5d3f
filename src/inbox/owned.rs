//! One inbox: its lanes, who has sessions on it, and how far its ownership is.

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::LaneRefill;
use super::lane::{Known, Lane, Room};
use super::order::Order;
use super::{Entry, SessionId};
use crate::message::{LANES, REPLIES};

/// One push in so many takes the oldest ready delivery of the inbox, whatever its lane, so that no priority
/// starves: under a saturating urgent load the rest still gets 6 % of the pushes.
pub(super) const OLDEST_EVERY: u64 = 16;

/// How far this broker's ownership of the inbox is.
///
/// `Acquiring` → `Loading` (the lease is committed) → `Owned` (a tail round that began later has ended, so every
/// row is brought by the tail or visible to a refill) → `Leaving` (no session left; outcomes are being written)
/// → `Releasing` (the lease is being given back) → gone. A session that joins meanwhile turns `Leaving` back to
/// `Owned`, and waits for `Releasing` to end. `Elsewhere`: another broker's; kept while outcomes are being written of what
/// was pushed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    Acquiring,
    Elsewhere,
    Loading { since: Instant, epoch: i64 },
    Owned { epoch: i64 },
    Leaving { epoch: i64 },
    Releasing,
}

/// An attempt at a delivery: its row, and how many attempts failed before. An outcome is written where both match.
pub(super) type Attempt = (i64, u32);

/// Where a delivery is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An ordering key has let it go.
    Order,
    /// This lane.
    Lane(usize),
}

/// An attempt that left its lane. It can be both: it is given back, the tail brings it again and it is pushed, all
/// before the news of the COMMIT is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unsettled {
    in_flight: u32,
    settling: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) ownership: Ownership,
    /// The lease is asked for and not answered: nothing is pushed meanwhile. There is one question at a time.
    pub(super) asking: bool,
    /// This broker's lease lapsed while it asked: the answer may be from before.
    pub(super) ask_again: bool,
    lanes: [Lane; LANES],
    pub(super) order: Order,
    /// In the order in which they get the next delivery.
    pub(super) sessions: VecDeque<SessionId>,
    unsettled: HashMap<Attempt, Unsettled>,
    /// Settled while a refill was under way, which may have read the row before.
    settled_in_refill: HashSet<Attempt>,
    refilling: bool,
    /// The refill under way is for lanes that were forgotten since: its answer says nothing.
    refill_is_stale: bool,
    /// The open round of the tail brought something.
    in_round: bool,
    /// A refill met a delivery whose outcome is being written: the next one waits for the news, rather than
    /// asking the table over and over.
    waits_for_settle: bool,
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
            asking: true,
            ask_again: false,
            lanes: std::array::from_fn(|_| Lane::unread()),
            order: Order::default(),
            sessions: VecDeque::new(),
            unsettled: HashMap::new(),
            settled_in_refill: HashSet::new(),
            refilling: false,
            refill_is_stale: false,
            in_round: false,
            waits_for_settle: false,
            pushes: 0,
            pushed_at: None,
            room_since: None,
            stalled: None,
        }
    }

    /// Forgets what its lanes hold, to read it anew.
    pub(super) fn forget(&mut self, ownership: Ownership) {
        self.lanes = std::array::from_fn(|_| Lane::unread());
        self.order.forget();
        self.refill_is_stale = self.refilling;
        self.waits_for_settle = false;
        self.settled_in_refill.clear();
        self.ownership = ownership;
    }

    pub(super) fn is_owned(&self) -> bool {
        matches!(self.ownership, Ownership::Owned { .. }) && !self.asking
    }

    pub(super) fn bytes(&self) -> usize {
        self.lanes.iter().map(Lane::bytes).sum::<usize>() + self.order.bytes()
    }

    /// A delivery that the tail brought. True: the first one in this round.
    pub(super) fn arrive(&mut self, entry: Entry, room: Room) -> bool {
        // A second time (an outcome was written twice, or another broker gave it back late): the outcome of the
        // one in flight will match this row as well.
        if self.is_in_flight(&entry) {
            // It is the row that was pushed.
        } else if entry.is_left() {
            self.lanes[entry.lane].leave(entry.delivery_id);
        } else if let Some(entry) = self.order.take_back(entry) {
            self.lanes[entry.lane].arrive(entry, room);
        }
        !std::mem::replace(&mut self.in_round, true)
    }

    /// A round of the tail is whole.
    pub(super) fn end_round(&mut self) {
        self.in_round = false;
        self.lanes.iter_mut().for_each(Lane::end_round);
    }

    /// Where the next delivery to push is, and its size: what an ordering key has let go, since it was its turn before;
    /// then strictly by lane, but for one in [`OLDEST_EVERY`]. Replies go their own way.
    pub(super) fn next(&self) -> Option<(Source, usize)> {
        if let Some(bytes) = self.order.front_bytes() {
            return Some((Source::Order, bytes));
        }
        if self.order.is_full() {
            return None;
        }
        let turn_of_the_oldest = self.pushes % OLDEST_EVERY == OLDEST_EVERY - 1;
        let lane = if turn_of_the_oldest { self.oldest_lane() } else { self.urgent_lane() }?;
        Some((Source::Lane(lane), self.lanes[lane].front_bytes()))
    }

    /// The next reply: the process that it is for, and its size.
    pub(super) fn next_reply(&self) -> Option<(Option<Arc<str>>, usize)> {
        let reply = self.lanes[REPLIES].first()?;
        Some((reply.instance().cloned(), self.lanes[REPLIES].front_bytes()))
    }

    /// Takes what [`next`](Self::next) or [`next_reply`](Self::next_reply) showed; `None` if it waits for another with
    /// its key. A reply waits for none.
    pub(super) fn pop(&mut self, source: Source) -> Option<Entry> {
        match source {
            Source::Order => self.order.pop(),
            Source::Lane(REPLIES) => self.lanes[REPLIES].pop(),
            Source::Lane(lane) => self.lanes[lane].pop().and_then(|entry| self.order.admit(entry)),
        }
    }

    fn by_priority(&self) -> impl Iterator<Item = (usize, &Lane)> {
        self.lanes.iter().enumerate().skip(REPLIES + 1)
    }

    fn urgent_lane(&self) -> Option<usize> {
        for (position, lane) in self.by_priority() {
            if !lane.is_empty() {
                return Some(position);
            }
            // Something more urgent is on its way from the table: less urgent deliveries wait for it.
            if lane.has_more() {
                return None;
            }
        }
        None
    }

    fn oldest_lane(&self) -> Option<usize> {
        let fronts = self.by_priority().filter_map(|(i, lane)| Some((lane.front()?, i)));
        fronts.min().map(|(_, lane)| lane)
    }

    /// The lanes to read on, if it is time; there is one refill of an inbox at a time.
    pub(super) fn begin_refill(&mut self, room: Room) -> Vec<LaneRefill> {
        if self.refilling || self.waits_for_settle || !self.is_owned() {
            return Vec::new();
        }
        let mut wanted = Vec::new();
        for (position, lane) in self.lanes.iter_mut().enumerate() {
            if lane.wants_refill(room) {
                let (above, rows) = lane.begin_refill(room);
                wanted.push(LaneRefill { lane: position, above, rows });
            }
        }
        self.refilling = !wanted.is_empty();
        wanted
    }

    pub(super) fn end_refill(&mut self, lanes: Vec<(usize, usize, Vec<Entry>)>, room: Room) {
        let settled = std::mem::take(&mut self.settled_in_refill);
        if !std::mem::take(&mut self.refilling) || std::mem::take(&mut self.refill_is_stale) {
            return;
        }
        let (unsettled, order) = (&self.unsettled, &self.order);
        let waits = Cell::new(false);
        let known = |entry: &Entry| match unsettled.get(&attempt_of(entry)) {
            None if entry.is_left() => Known::Left,
            Some(u) if u.in_flight > 0 => Known::InFlight,
            None if order.holds(entry) => Known::InFlight,
            Some(_) => {
                waits.set(true);
                Known::Settling
            }
            None if settled.contains(&attempt_of(entry)) => Known::Settling,
            None => Known::New,
        };
        for (position, asked, rows) in lanes {
            self.lanes[position].end_refill(rows, asked, room, known);
        }
        self.waits_for_settle = waits.get();
    }

    pub(super) fn cancel_refill(&mut self) {
        self.refilling = false;
        self.refill_is_stale = false;
        self.settled_in_refill.clear();
        for lane in &mut self.lanes {
            lane.cancel_refill();
        }
    }

    /// It was handed to a session. Only pushes count towards the turn of the oldest.
    pub(super) fn pushed(&mut self, now: Instant, entry: &Entry) {
        self.pushes += 1;
        self.pushed_at = Some(now);
        self.unsettled.entry(attempt_of(entry)).or_default().in_flight += 1;
        if entry.lane != REPLIES {
            self.order.pushed(entry);
        }
    }

    /// A session has it no more; its outcome is known.
    pub(super) fn landed(&mut self, attempt: Attempt) {
        let unsettled = self.unsettled.entry(attempt).or_default();
        unsettled.in_flight = unsettled.in_flight.saturating_sub(1);
    }

    /// Its outcome will be written.
    pub(super) fn settling(&mut self, attempt: Attempt) {
        self.unsettled.entry(attempt).or_default().settling += 1;
    }

    /// An outcome is committed. True: a refill waited for that.
    pub(super) fn settled(&mut self, attempt: Attempt) -> bool {
        let Some(unsettled) = self.unsettled.get_mut(&attempt) else { return false };
        unsettled.settling = unsettled.settling.saturating_sub(1);
        if *unsettled == Unsettled::default() {
            self.unsettled.remove(&attempt);
        }
        if self.refilling {
            self.settled_in_refill.insert(attempt);
        }
        std::mem::take(&mut self.waits_for_settle)
    }

    /// Takes note whether one of its sessions has room. There is none either while too many wait for others of their key.
    pub(super) fn note_room(&mut self, now: Instant, has_room: bool) {
        let has_room = has_room && !self.order.is_full();
        self.room_since = has_room.then(|| self.room_since.unwrap_or(now));
    }

    /// How long a delivery has waited for the broker, and not for its agent. What became ready before a session had room is
    /// a backlog, and waits for those before it: for the broker only while none of them is pushed. What its key held back waits
    /// for those with the same.
    pub(super) fn waited(&self, now: Instant, source: Source, entry: &Entry) -> Duration {
        let (Some(room_since), Source::Lane(_)) = (self.room_since, source) else { return Duration::ZERO };
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
        let may_wait = !self.is_owned() || self.lanes.iter().any(Lane::has_more);
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
        self.unsettled.get(&attempt_of(entry)).is_some_and(|u| u.in_flight > 0)
    }

    /// Whether it can be forgotten, or given back: every delivery that left a lane has its outcome in the table,
    /// and no answer is under way that the inbox's next life would take for its own.
    pub(super) fn is_quiet(&self) -> bool {
        self.unsettled.is_empty() && !self.refilling && !self.asking
    }
}

pub(super) fn attempt_of(entry: &Entry) -> Attempt {
    (entry.delivery_id, entry.attempt)
}
