//! How refills read keys with a lane of their own, and which keys the inbox's lanes leave out.

use std::sync::Arc;

use super::{Around, KEY_ROOM, OrderingKeys, PARKED_MAX, Turn};
use crate::inbox::Entry;
use crate::inbox::event::{KeyRefill, KeyRows};
use crate::inbox::lane::KnownAs;

/// The most keys that one refill reads.
pub(in crate::inbox) const KEY_REFILLS_MAX: usize = 16;

impl OrderingKeys {
    /// The keys that the refills of the inbox's lanes leave out.
    pub(in crate::inbox) fn passed(&mut self) -> Arc<[Arc<str>]> {
        let keys = &self.keys;
        let names =
            || keys.iter().filter(|(_, key)| key.own.is_some()).map(|(name, _)| name.clone()).collect();
        self.passed.get_or_insert_with(names).clone()
    }

    /// Starts the refills of hungry keys, the most urgent first.
    pub(in crate::inbox) fn begin_refill(&mut self, around: impl Fn() -> Around) -> Vec<KeyRefill> {
        let (mut wanted, mut asked) = (Vec::new(), 0);
        let wants =
            |name: &Arc<str>| self.keys.get(name).is_some_and(|key| key.waiting.wants_refill(KEY_ROOM));
        let hungry = self.hungry.iter().filter(|(_, name)| wants(name)).take(KEY_REFILLS_MAX);
        for (turn, name) in hungry.cloned().collect::<Vec<_>>() {
            if self.is_over() && !self.make_room(turn, &around) {
                break;
            }
            // `change` is not needed here: the key stays in the same list.
            let Some(key) = self.keys.get_mut(&name) else { continue };
            let (above, rows) = key.waiting.begin_refill(KEY_ROOM);
            // No more rows than fit: rows that are read and given back would be read again at once.
            let rows = rows.min(PARKED_MAX.saturating_sub(self.parked + asked)).max(1);
            asked += rows;
            self.refilling.push(name.clone());
            wanted.push(KeyRefill { key: name, above, rows });
            if self.parked + asked >= PARKED_MAX {
                break;
            }
        }
        wanted
    }

    /// Leaves the least urgent parked deliveries in the table, if they are less urgent than `turn`. False if
    /// that made no room.
    fn make_room(&mut self, turn: Turn, around: impl Fn() -> Around) -> bool {
        let Some(last) = self.ready.last().copied().filter(|last| *last > turn) else { return false };
        let Some(name) = self.ready_ids.get(&last.1).cloned() else { return false };
        if self.keys.get(&name).is_some_and(|key| key.own.is_none()) {
            self.give_own_lane(&name, last, around());
        } else {
            self.change(&name, |key| {
                key.hint = last;
                key.waiting.give_back();
            });
        }
        !self.is_over()
    }

    /// Takes the rows of the refill.
    pub(in crate::inbox) fn end_refill(&mut self, keys: Vec<KeyRows>, known: impl Fn(&Entry) -> KnownAs) {
        let refilling = std::mem::take(&mut self.refilling);
        for KeyRows { key: name, asked, mut rows } in keys {
            if refilling.contains(&name) {
                // A row that could not be read has lost its key: it must free the key, too.
                rows.iter_mut().for_each(|entry| entry.set_ordering_key(&name));
                self.change(&name, |key| key.waiting.end_refill(rows, asked, KEY_ROOM, &known));
            }
        }
    }

    /// The refill failed.
    pub(in crate::inbox) fn cancel_refill(&mut self) {
        for name in std::mem::take(&mut self.refilling) {
            if let Some(key) = self.keys.get_mut(&name) {
                key.waiting.cancel_refill();
            }
        }
    }

    /// A tail round has ended.
    pub(in crate::inbox) fn end_round(&mut self) {
        for name in std::mem::take(&mut self.in_round) {
            if let Some(key) = self.keys.get_mut(&name) {
                key.waiting.end_round();
            }
        }
    }

    /// Whether a key waits for a refill.
    pub(in crate::inbox) fn is_hungry(&self) -> bool {
        !self.hungry.is_empty()
    }

    #[cfg(test)]
    pub(in crate::inbox) fn sketch(&self) -> String {
        let keys =
            self.keys.iter().map(|(name, key)| (name, key.state, key.own, key.place, key.waiting.sketch()));
        format!("{:?} hungry {:?} parked {}", keys.collect::<Vec<_>>(), self.hungry, self.parked)
    }
}
