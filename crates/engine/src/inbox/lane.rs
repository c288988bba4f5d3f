//! A lane: the oldest ready deliveries of one priority of an inbox, in memory; the rest stays in the table.
//!
//! Invariant: while `more` is false the lane holds every ready delivery that was read so far; while it is true,
//! every one up to and including `horizon`. So the front of a non-empty lane is the oldest of its priority.
//!
//! Two readers fill it, and together they bring each row exactly once: the tail brings the rows that its
//! snapshot `T` did not show yet, a refill brings only rows visible in `T`. What the tail brings beyond the
//! horizon is dropped (it is in the table); no refill may step over it that was under way meanwhile, or that begins
//! before the tail's round is whole, since `T` does not show the row until then. So the lane remembers the lowest
//! id it dropped and cuts the refill there.

use std::collections::BTreeMap;

use super::Entry;

/// How much a lane may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In entries.
    pub entries: usize,
    /// In bytes of bodies and bookkeeping; one entry is held whatever its size.
    pub bytes: usize,
    /// The rows of its first refill, when neither the size of its messages nor the pace of its agents is known.
    pub first_rows: usize,
}

/// The rows of the first refill: 64 of the largest are what one broker can hold at once.
pub const REFILL_ROWS_FIRST: usize = 64;
/// The room of a lane while memory is plenty.
pub const ROOM: Room = Room { entries: 2_000, bytes: 2 * 1024 * 1024, first_rows: REFILL_ROWS_FIRST };
/// The room of a lane while all lanes together are over their bound.
pub const ROOM_SCARCE: Room = Room { entries: 16, bytes: 64 * 1024, first_rows: REFILL_ROWS_FIRST };
/// The most rows of one refill.
pub const REFILL_ROWS_MAX: usize = 1_000;

const _: () = assert!(REFILL_ROWS_MAX <= ROOM.entries);
const _: () = assert!(REFILL_ROWS_FIRST <= REFILL_ROWS_MAX);

/// What a delivery that came in a refill is to the inbox already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: take it.
    New,
    /// It is with a session, or held elsewhere in the inbox: skip it.
    Held,
    /// Its outcome is being written, so the row may be the old one or the new one: stop before it, and ask
    /// again once the outcome is settled.
    Settling,
    /// It was not read whole: stop before it, and ask again.
    Left,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Lane {
    held: BTreeMap<i64, Entry>,
    bytes: usize,
    /// Of all entries that ever came: what sizes a refill.
    entry_bytes_mean: usize,
    /// How many were given out since it was first read: what sizes a refill, too.
    taken: usize,
    more: bool,
    horizon: i64,
    /// While a refill is under way: the lowest id that it must not step over.
    refilling: Option<i64>,
    /// Where the open round of the tail brought something: the lowest id that was left in the table since (or the
    /// highest there is), which no refill may show yet.
    left_in_round: Option<i64>,
}

impl Lane {
    /// A lane of which nothing was read yet.
    pub fn unread() -> Self {
        Self { more: true, ..Self::default() }
    }

    /// The same while a round of the tail may be open, which brought rows that no refill shows before its end.
    pub fn unread_in(round_is_open: bool) -> Self {
        Self { left_in_round: round_is_open.then_some(1), ..Self::unread() }
    }

    /// How many deliveries it holds.
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// What its deliveries cost in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether deliveries may wait in the table that are not held here.
    pub fn has_more(&self) -> bool {
        self.more
    }

    /// The oldest delivery.
    pub fn first(&self) -> Option<&Entry> {
        self.held.first_key_value().map(|(_, entry)| entry)
    }

    /// The oldest delivery's id.
    pub fn front(&self) -> Option<i64> {
        self.held.first_key_value().map(|(id, _)| *id)
    }

    /// The size of the oldest delivery's body.
    pub fn front_bytes(&self) -> usize {
        self.first().and_then(|entry| entry.body.as_ref()).map_or(0, |body| body.len())
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
    pub fn back(&self) -> Option<i64> {
        self.held.last_key_value().map(|(id, _)| *id)
    }

    /// This one.
    pub fn get(&self, id: i64) -> Option<&Entry> {
        self.held.get(&id)
    }

    /// Takes this one, wherever it is.
    pub fn take(&mut self, id: i64) -> Option<Entry> {
        let entry = self.held.remove(&id)?;
        self.bytes -= entry.cost_bytes();
        self.taken = self.taken.saturating_add(1);
        Some(entry)
    }

    /// Holds one that came from elsewhere than the table: the lane is no part of it.
    pub fn put(&mut self, entry: Entry) {
        self.hold(entry);
    }

    /// Leaves everything it holds in the table.
    pub fn give_back(&mut self) {
        let Some(first) = self.front() else { return };
        self.held.clear();
        self.bytes = 0;
        self.horizon = first - 1;
        self.leave_in_table(first);
    }

    /// A delivery that the tail brought.
    pub fn arrive(&mut self, entry: Entry, room: Room) {
        self.left_in_round.get_or_insert(i64::MAX);
        if self.more && entry.delivery_id > self.horizon {
            self.leave_in_table(entry.delivery_id);
        } else {
            self.hold(entry);
        }
        self.trim(room);
        self.check();
    }

    /// A delivery that the tail found and did not read: a refill brings it, and what comes after it, in order.
    pub fn leave(&mut self, id: i64) {
        self.left_in_round.get_or_insert(i64::MAX);
        if !self.more || id <= self.horizon {
            while self.held.last_key_value().is_some_and(|(last, _)| *last >= id) {
                let Some((_, entry)) = self.held.pop_last() else { break };
                self.bytes -= entry.cost_bytes();
            }
            self.horizon = id - 1;
        }
        self.leave_in_table(id);
        self.check();
    }

    /// Whether it is time to ask for a refill.
    pub fn wants_refill(&self, room: Room) -> bool {
        self.more
            && self.refilling.is_none()
            // The very next row waits for the round to end.
            && self.left_in_round != Some(self.horizon + 1)
            && self.held.len() <= (room.entries / 2).min(self.taken.max(room.first_rows / 2))
            && self.bytes <= room.bytes / 2
    }

    /// How many rows to read at once: as many as were taken, and as many again. An agent that takes one message a minute
    /// has no thousand of them read, whenever it connects; one that takes all it can get soon has.
    fn appetite(&self, room: Room) -> usize {
        self.taken.saturating_mul(2).clamp(room.first_rows, REFILL_ROWS_MAX)
    }

    /// Starts a refill: rows with an id above the first number, oldest first, at most the second.
    pub fn begin_refill(&mut self, room: Room) -> (i64, usize) {
        self.refilling = Some(self.left_in_round.unwrap_or(i64::MAX));
        let fit = match self.entry_bytes_mean {
            0 => room.first_rows,
            mean => (room.bytes.saturating_sub(self.bytes) / mean).max(1),
        };
        let rows = fit.min(room.entries.saturating_sub(self.held.len()).max(1)).min(self.appetite(room));
        (self.horizon, rows)
    }

    /// The rows of the refill, oldest first; fewer than `asked` say that there were no more. A statement that looked at as many
    /// rows as it may says that it was asked for as many as it brings, and its last one is the last it looked at.
    pub fn end_refill(
        &mut self,
        rows: Vec<Entry>,
        asked: usize,
        room: Room,
        known: impl Fn(&Entry) -> Known,
    ) {
        let mut whole = rows.len() < asked;
        let mut stop = self.refilling.take().unwrap_or(i64::MAX);
        let mut last = self.horizon;
        for entry in rows {
            let id = entry.delivery_id;
            if id < stop {
                match known(&entry) {
                    Known::New => self.hold(entry),
                    Known::Held => {}
                    Known::Settling | Known::Left => stop = id,
                }
            }
            if id >= stop {
                whole = true;
                break;
            }
            last = id;
        }
        // Whole: every row below `stop` came, else only those up to the last.
        self.more = !whole || stop < i64::MAX;
        self.horizon = if whole { stop - 1 } else { last };
        self.trim(room);
        self.check();
    }

    /// A round of the tail is whole: the next refill shows what was left in the table.
    pub fn end_round(&mut self) {
        self.left_in_round = None;
    }

    /// The refill failed.
    pub fn cancel_refill(&mut self) {
        self.refilling = None;
    }

    fn hold(&mut self, entry: Entry) {
        let cost = entry.cost_bytes();
        // A mean that forgets: 7 parts of what was, one of what came.
        self.entry_bytes_mean =
            if self.entry_bytes_mean == 0 { cost } else { (self.entry_bytes_mean * 7 + cost) / 8 };
        self.bytes += cost;
        if let Some(old) = self.held.insert(entry.delivery_id, entry) {
            self.bytes -= old.cost_bytes();
        }
    }

    /// Gives the youngest back to the table until the rest fits.
    fn trim(&mut self, room: Room) {
        while self.held.len() > room.entries.max(1) || (self.bytes > room.bytes && self.held.len() > 1) {
            let Some((id, entry)) = self.held.pop_last() else { return };
            self.bytes -= entry.cost_bytes();
            self.more = true;
            self.horizon = id - 1;
            self.leave_in_table(id);
        }
    }

    fn leave_in_table(&mut self, id: i64) {
        self.more = true;
        self.left_in_round = self.left_in_round.map(|lowest| lowest.min(id));
        self.refilling = self.refilling.map(|lowest| lowest.min(id));
    }

    #[cfg(test)]
    pub(super) fn sketch(&self) -> String {
        let held: Vec<_> = self.held.keys().collect();
        format!("{held:?} {} {} {:?} {:?}", self.more, self.horizon, self.refilling, self.left_in_round)
    }

    fn check(&self) {
        debug_assert!(!self.more || self.held.last_key_value().is_none_or(|(id, _)| *id <= self.horizon));
        debug_assert_eq!(self.bytes, self.held.values().map(Entry::cost_bytes).sum::<usize>());
    }
}

#[cfg(test)]
mod tests;
