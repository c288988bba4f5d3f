//! One inbox: its lanes, who has sessions on it, and how far its ownership is.

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::event::LaneRefill;
use super::lane::{Known, Lane, Room};
use super::{Entry, SessionId};
use crate::message::PRIORITIES;

/// One push in so many takes the oldest ready delivery of the inbox, whatever its lane, so that no priority
/// starves: under a saturating urgent load the rest still gets 6 % of the pushes.
pub(super) const OLDEST_EVERY: u64 = 16;

/// How far this broker's ownership of the inbox is.
///
/// `Acquiring` → `Loading` (the lease is committed) → `Owned` (a tail round that began later has ended, so every
/// row is brought by the tail or visible to a refill) → `Leaving` (no session left; outcomes are being written)
/// → `Releasing` (the lease is being given back) → gone. A session that joins meanwhile turns `Leaving` back to
/// `Owned`, and waits for `Releasing` to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ownership {
    Acquiring,
    Loading { since: Instant, epoch: i64 },
    Owned { epoch: i64 },
    Leaving { epoch: i64 },
    Releasing,
}

/// A delivery that left its lane. It can be both: its failure is written, the tail brings it again and it is
/// pushed, all before the news of the COMMIT is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Unsettled {
    in_flight: bool,
    settling: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    pub(super) ownership: Ownership,
    lanes: [Lane; PRIORITIES],
    /// In the order in which they get the next delivery.
    pub(super) sessions: VecDeque<SessionId>,
    unsettled: HashMap<i64, Unsettled>,
    /// Settled while a refill was under way, which may have read the row before.
    settled_in_refill: HashSet<i64>,
    refilling: bool,
    /// A refill met a delivery whose outcome is being written: the next one waits for the news, rather than
    /// asking the table over and over.
    waits_for_settle: bool,
    pushes: u64,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self {
            ownership: Ownership::Acquiring,
            lanes: std::array::from_fn(|_| Lane::unread()),
            sessions: VecDeque::new(),
            unsettled: HashMap::new(),
            settled_in_refill: HashSet::new(),
            refilling: false,
            waits_for_settle: false,
            pushes: 0,
        }
    }

    /// Forgets what its lanes hold, to read it anew.
    pub(super) fn forget(&mut self, ownership: Ownership) {
        self.lanes = std::array::from_fn(|_| Lane::unread());
        self.refilling = false;
        self.waits_for_settle = false;
        self.settled_in_refill.clear();
        self.ownership = ownership;
    }

    pub(super) fn is_owned(&self) -> bool {
        matches!(self.ownership, Ownership::Owned { .. })
    }

    pub(super) fn bytes(&self) -> usize {
        self.lanes.iter().map(Lane::bytes).sum()
    }

    pub(super) fn arrive(&mut self, entry: Entry, room: Room) {
        self.lanes[entry.priority.lane()].arrive(entry, room);
    }

    /// The next delivery to push: strictly by lane, but for one in [`OLDEST_EVERY`].
    pub(super) fn pop(&mut self) -> Option<Entry> {
        let turn_of_the_oldest = self.pushes % OLDEST_EVERY == OLDEST_EVERY - 1;
        let lane = if turn_of_the_oldest { self.oldest_lane() } else { self.urgent_lane() }?;
        self.lanes[lane].pop()
    }

    fn urgent_lane(&self) -> Option<usize> {
        for (position, lane) in self.lanes.iter().enumerate() {
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
        let fronts = self.lanes.iter().enumerate().filter_map(|(i, lane)| Some((lane.front()?, i)));
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
        if !std::mem::take(&mut self.refilling) {
            return;
        }
        let settled = std::mem::take(&mut self.settled_in_refill);
        let unsettled = &self.unsettled;
        let waits = Cell::new(false);
        let known = |id: i64| match unsettled.get(&id) {
            Some(u) if u.settling > 0 => {
                waits.set(true);
                Known::Settling
            }
            Some(_) => Known::InFlight,
            None if settled.contains(&id) => Known::Settling,
            None => Known::New,
        };
        for (position, asked, rows) in lanes {
            self.lanes[position].end_refill(rows, asked, room, known);
        }
        self.waits_for_settle = waits.get();
    }

    pub(super) fn cancel_refill(&mut self) {
        self.refilling = false;
        self.settled_in_refill.clear();
        for lane in &mut self.lanes {
            lane.cancel_refill();
        }
    }

    /// It was handed to a session. Only pushes count towards the turn of the oldest.
    pub(super) fn pushed(&mut self, delivery_id: i64) {
        self.pushes += 1;
        self.unsettled.entry(delivery_id).or_default().in_flight = true;
    }

    /// Its outcome is known and will be written.
    pub(super) fn settling(&mut self, delivery_id: i64) {
        let unsettled = self.unsettled.entry(delivery_id).or_default();
        unsettled.in_flight = false;
        unsettled.settling += 1;
    }

    /// An outcome is committed. True: a refill waited for that.
    pub(super) fn settled(&mut self, delivery_id: i64) -> bool {
        let Some(unsettled) = self.unsettled.get_mut(&delivery_id) else { return false };
        unsettled.settling = unsettled.settling.saturating_sub(1);
        if *unsettled == Unsettled::default() {
            self.unsettled.remove(&delivery_id);
        }
        if self.refilling {
            self.settled_in_refill.insert(delivery_id);
        }
        std::mem::take(&mut self.waits_for_settle)
    }

    /// Whether every delivery that left a lane has its outcome in the table.
    pub(super) fn is_settled(&self) -> bool {
        self.unsettled.is_empty()
    }
}
