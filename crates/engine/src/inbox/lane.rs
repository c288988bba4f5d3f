//! A lane: the oldest ready deliveries of one priority of an inbox, in memory; the rest stays in the table.
//!
//! Invariant: while `more` is false, the lane holds every ready delivery that was read so far; while `more` is true, every
//! one up to and including `horizon`. So the front of a non-empty lane is the oldest delivery of its priority.
//!
//! Two readers fill the lane, and together they bring each row exactly once: the tail brings the rows that its snapshot `T`
//! did not show yet, and a refill brings only rows visible in `T`. A row that the tail brings beyond the horizon is
//! dropped, since it is in the table. A refill that is under way then, or that begins before the tail's round has ended,
//! must not step over such a row, because until then `T` does not show it. So the lane remembers the lowest id that it
//! dropped, and cuts the refill there.

use std::collections::BTreeMap;

use super::{DeliveryId, Entry};

/// How much a lane may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The most entries, whatever their size.
    pub entries: usize,
    /// The most bytes of bodies and bookkeeping; one entry is held whatever its size.
    pub bytes: usize,
    /// The rows of the first refill, before the size of the messages and the pace of the agents are known.
    pub first_rows: usize,
}

/// The rows of the first refill: 64 of the largest messages are what one broker can hold at once.
pub const REFILL_ROWS_FIRST: usize = 64;
/// The room of a lane while memory is plenty.
pub const ROOM: Room = Room { entries: 2_000, bytes: 2 * 1024 * 1024, first_rows: REFILL_ROWS_FIRST };
/// The room of a lane while all lanes together are over their bound.
pub const ROOM_SCARCE: Room = Room { entries: 16, bytes: 64 * 1024, first_rows: REFILL_ROWS_FIRST };
/// The most rows of one refill.
pub const REFILL_ROWS_MAX: usize = 1_000;

const _: () = assert!(REFILL_ROWS_MAX <= ROOM.entries);
const _: () = assert!(REFILL_ROWS_FIRST <= REFILL_ROWS_MAX);

/// How a delivery that a refill brought is known to the inbox already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownAs {
    /// Unknown: take it.
    New,
    /// In flight, or held elsewhere in the inbox: skip it.
    Held,
    /// Being settled, so the row may be the old one or the new one: stop before it, and ask again once that is known.
    Settling,
    /// Without a payload, because that was not read: stop before it, and ask again.
    Left,
}

/// Where a refill must stop, because the tail left rows in the table that no snapshot of a refill shows yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stop {
    /// Before the lowest id that was left.
    Before(DeliveryId),
    /// Nothing was left.
    Nowhere,
}

impl Stop {
    fn lets_pass(self, id: DeliveryId) -> bool {
        match self {
            Self::Before(stop) => id < stop,
            Self::Nowhere => true,
        }
    }
}

/// A lane; the module's page states its invariant.
#[derive(Debug, Default)]
pub struct Lane {
    held: BTreeMap<DeliveryId, Entry>,
    bytes: usize,
    /// The mean cost of the entries that came so far, which sizes a refill.
    entry_bytes_mean: usize,
    /// How many entries were given out since the lane was first read, which sizes a refill as well.
    taken: usize,
    more: bool,
    horizon: DeliveryId,
    /// The refill under way, if there is one.
    refilling: Option<Stop>,
    /// The open round of the tail, if it has touched this lane.
    round: Option<Stop>,
}

impl Lane {
    /// A lane that was not read yet.
    pub fn unread() -> Self {
        Self { more: true, ..Self::default() }
    }

    /// A lane that was not read yet, while a tail round may be open that has brought rows that no refill shows before its end.
    pub fn unread_in(round_is_open: bool) -> Self {
        Self { round: round_is_open.then_some(Stop::Before(DeliveryId(1))), ..Self::unread() }
    }

    /// How many deliveries it holds.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// The memory of its deliveries, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether deliveries may wait in the table that the lane does not hold.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// The oldest delivery.
    pub fn first(&self) -> Option<&Entry> {
        self.held.first_key_value().map(|(_, entry)| entry)
    }

    /// The oldest delivery's id.
    pub fn front(&self) -> Option<DeliveryId> {
        self.held.first_key_value().map(|(id, _)| *id)
    }

    /// Takes the oldest delivery.
    pub fn pop(&mut self) -> Option<Entry> {
        let (_, entry) = self.held.pop_first()?;
        self.bytes -= entry.cost_bytes();
        self.taken = self.taken.saturating_add(1);
        Some(entry)
    }

    /// The deliveries it holds, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.held.values()
    }

    /// The youngest delivery's id.
    pub fn back(&self) -> Option<DeliveryId> {
        self.held.last_key_value().map(|(id, _)| *id)
    }

    /// The delivery with this id, if the lane holds it.
    pub fn get(&self, id: DeliveryId) -> Option<&Entry> {
        self.held.get(&id)
    }

    /// Takes the delivery with this id, wherever it stands.
    pub fn take(&mut self, id: DeliveryId) -> Option<Entry> {
        let entry = self.held.remove(&id)?;
        self.bytes -= entry.cost_bytes();
        self.taken = self.taken.saturating_add(1);
        Some(entry)
    }

    /// Holds a delivery without the invariant, for a lane that is used as a plain list and not filled from the table.
    pub fn put(&mut self, entry: Entry) {
        self.hold(entry);
    }

    /// Gives all its deliveries back to the table.
    pub fn give_back(&mut self) {
        let Some(first) = self.front() else { return };
        self.held.clear();
        self.bytes = 0;
        self.horizon = first.before();
        self.leave_in_table(first);
    }

    /// The tail brought a delivery.
    pub fn arrive(&mut self, entry: Entry, room: Room) {
        self.round.get_or_insert(Stop::Nowhere);
        if self.more && entry.attempt.delivery_id > self.horizon {
            self.leave_in_table(entry.attempt.delivery_id);
        } else {
            self.hold(entry);
        }
        self.trim(room);
        self.check();
    }

    /// The tail brought a delivery without its payload: a refill brings it and all that come after it, in order.
    pub fn leave(&mut self, id: DeliveryId) {
        self.round.get_or_insert(Stop::Nowhere);
        if !self.more || id <= self.horizon {
            while self.held.last_key_value().is_some_and(|(last, _)| *last >= id) {
                let Some((_, entry)) = self.held.pop_last() else { break };
                self.bytes -= entry.cost_bytes();
            }
            self.horizon = id.before();
        }
        self.leave_in_table(id);
        self.check();
    }

    /// Whether it is time to ask for a refill.
    pub fn wants_refill(&self, room: Room) -> bool {
        self.more
            && self.refilling.is_none()
            // No refill may show the very next row before the round has ended.
            && self.round != Some(Stop::Before(self.horizon.after()))
            && self.held.len() <= (room.entries / 2).min(self.taken.max(room.first_rows / 2))
            && self.bytes <= room.bytes / 2
    }

    /// The rows to read at once: twice as many as were taken. An agent that takes one message a minute does not cause a
    /// thousand to be read each time it connects; an agent that takes all it can get soon reaches the bound.
    fn appetite(&self, room: Room) -> usize {
        self.taken.saturating_mul(2).clamp(room.first_rows, REFILL_ROWS_MAX)
    }

    /// Starts a refill. Returns the id above which it reads and the most rows to bring, oldest first.
    pub fn begin_refill(&mut self, room: Room) -> (DeliveryId, usize) {
        self.refilling = Some(self.round.unwrap_or(Stop::Nowhere));
        let fit = match self.entry_bytes_mean {
            0 => room.first_rows,
            mean => (room.bytes.saturating_sub(self.bytes) / mean).max(1),
        };
        let rows = fit.min(room.entries.saturating_sub(self.held.len()).max(1)).min(self.appetite(room));
        (self.horizon, rows)
    }

    /// Takes the rows of a refill, oldest first; fewer than `asked` mean that the table has no more. A statement that
    /// stopped at its bound of rows to look at reports `asked` as the number it brings, and its last row is the last it
    /// looked at.
    pub fn end_refill(
        &mut self,
        rows: Vec<Entry>,
        asked: usize,
        room: Room,
        known: impl Fn(&Entry) -> KnownAs,
    ) {
        let mut whole = rows.len() < asked;
        let mut stop = self.refilling.take().unwrap_or(Stop::Nowhere);
        let mut last = self.horizon;
        for entry in rows {
            let id = entry.attempt.delivery_id;
            if stop.lets_pass(id) {
                match known(&entry) {
                    KnownAs::New => self.hold(entry),
                    KnownAs::Held => {}
                    KnownAs::Settling | KnownAs::Left => stop = Stop::Before(id),
                }
            }
            if !stop.lets_pass(id) {
                whole = true;
                break;
            }
            last = id;
        }
        // Whole: every row before the stop came. Otherwise only those up to the last row.
        self.more = !whole || stop != Stop::Nowhere;
        self.horizon = match stop {
            Stop::Before(stop) if whole => stop.before(),
            Stop::Before(_) | Stop::Nowhere => last,
        };
        self.trim(room);
        self.check();
    }

    /// The tail round has ended: the next refill shows the rows that were left in the table.
    pub fn end_round(&mut self) {
        self.round = None;
    }

    /// The refill failed: another may begin.
    pub fn cancel_refill(&mut self) {
        self.refilling = None;
    }

    fn hold(&mut self, entry: Entry) {
        let cost = entry.cost_bytes();
        // A moving mean: seven parts of the past and one of the new entry.
        self.entry_bytes_mean =
            if self.entry_bytes_mean == 0 { cost } else { (self.entry_bytes_mean * 7 + cost) / 8 };
        self.bytes += cost;
        if let Some(old) = self.held.insert(entry.attempt.delivery_id, entry) {
            self.bytes -= old.cost_bytes();
        }
    }

    /// Gives the youngest deliveries back to the table until the rest fits.
    fn trim(&mut self, room: Room) {
        while self.held.len() > room.entries.max(1) || (self.bytes > room.bytes && self.held.len() > 1) {
            let Some((id, entry)) = self.held.pop_last() else { return };
            self.bytes -= entry.cost_bytes();
            self.more = true;
            self.horizon = id.before();
            self.leave_in_table(id);
        }
    }

    fn leave_in_table(&mut self, id: DeliveryId) {
        self.more = true;
        self.round = self.round.map(|stop| stop.min(Stop::Before(id)));
        self.refilling = self.refilling.map(|stop| stop.min(Stop::Before(id)));
    }

    #[cfg(test)]
    pub(super) fn sketch(&self) -> String {
        let held: Vec<_> = self.held.keys().collect();
        format!("{held:?} {} {} {:?} {:?}", self.more, self.horizon, self.refilling, self.round)
    }

    fn check(&self) {
        debug_assert!(!self.more || self.held.last_key_value().is_none_or(|(id, _)| *id <= self.horizon));
        debug_assert_eq!(self.bytes, self.held.values().map(Entry::cost_bytes).sum::<usize>());
    }
}

#[cfg(test)]
mod tests;
