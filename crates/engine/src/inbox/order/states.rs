//! The states of a key, from the push of one of its deliveries to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{OrderingKeys, State};
use crate::inbox::lane::Lane;
use crate::inbox::{Attempt, DeliveryId, Entry};

impl OrderingKeys {
    /// The delivery was pushed, or is kept to be pushed apart.
    pub(in crate::inbox) fn pushed(&mut self, entry: &Entry) {
        let Some(name) = entry.ordering_key().cloned() else { return };
        self.key(&name);
        self.change(&name, |key| key.state = State::InFlight);
        self.taken.insert(entry.attempt, name);
    }

    /// The delivery got its outcome without a push.
    pub(in crate::inbox) fn passed_over(&mut self, entry: &Entry) {
        if let Some(name) = entry.ordering_key().cloned() {
            self.taken.remove(&entry.attempt);
            self.free(&name);
        }
    }

    /// An outcome will be written. `again` is the delay until the next attempt, if there is one. True: the
    /// delay is kept here, so the row must be written as ready at once.
    pub(in crate::inbox) fn settling(&mut self, attempt: Attempt, again: Option<Duration>) -> bool {
        let Some(name) = self.taken.get(&attempt).cloned() else { return false };
        if let Some(delay) = again {
            let writing =
                |key: &mut super::Key| key.state = State::Writing { id: attempt.delivery_id, delay };
            return self.change(&name, writing).is_some();
        }
        self.taken.remove(&attempt);
        self.free(&name);
        false
    }

    /// An outcome is settled. True: a tail round that begins after `now` must show the row again.
    pub(in crate::inbox) fn settled(&mut self, now: Instant, attempt: Attempt) -> bool {
        let Some(name) = self.taken.get(&attempt).cloned() else { return false };
        let Some(key) = self.keys.get_mut(&name) else { return false };
        let State::Writing { id, delay } = key.state else { return false };
        if id != attempt.delivery_id {
            return false;
        }
        key.state = State::Returning { id, delay, since: now };
        self.taken.remove(&attempt);
        self.returning.push_back((now, name));
        true
    }

    /// A tail round has ended. True: some keys wait for a round that begins later.
    pub(in crate::inbox) fn round(&mut self, started_at: Instant) -> bool {
        while self.returning.front().is_some_and(|(since, _)| *since <= started_at) {
            let Some((_, name)) = self.returning.pop_front() else { break };
            let Some(key) = self.keys.get_mut(&name) else { continue };
            let State::Returning { id, delay, since } = key.state else { continue };
            if since > started_at {
                continue;
            }
            let until = since + delay;
            key.state = State::Delayed { id, until };
            self.delayed.insert((until, name));
        }
        !self.returning.is_empty()
    }

    /// When [`wake`](Self::wake) is due.
    pub(in crate::inbox) fn next_wake(&self) -> Option<Instant> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// Frees the keys whose delay has passed.
    pub(in crate::inbox) fn wake(&mut self, now: Instant) {
        while self.delayed.first().is_some_and(|(at, _)| *at <= now) {
            self.wake_first();
        }
    }

    fn wake_first(&mut self) {
        let Some((at, name)) = self.delayed.pop_first() else { return };
        let state = self.keys.get(&name).map(|key| key.state);
        if matches!(state, Some(State::Delayed { until, .. }) if until == at) {
            self.free(&name);
        }
    }

    fn free(&mut self, name: &Arc<str>) {
        self.change(name, |key| key.state = State::Free);
    }

    /// Every id that the inbox's lanes hold is `front` or higher: keys that lingered for lower ids end.
    pub(in crate::inbox) fn end_lingering(&mut self, front: DeliveryId) {
        while self.lingering.first().is_some_and(|(until, _)| *until < front) {
            let Some((_, name)) = self.lingering.first().cloned() else { return };
            self.remove(&name);
        }
    }

    /// Keeps the keys within a bound. The delays that end first end now. True: there are still too many keys,
    /// so the caller must call [`forget`](Self::forget) and read the lanes anew.
    pub(in crate::inbox) fn keep_to(&mut self, keys_max: usize) -> bool {
        while self.delayed.len() > keys_max {
            self.wake_first();
        }
        let free = self.ready_ids.len() + self.hungry.len() + self.lingering.len();
        self.keys.len() > 2 * keys_max && free > keys_max / 2
    }

    /// Forgets the waiting deliveries, which are read from the table anew, but not the keys that are taken.
    /// `round_is_open`: an open tail round may have brought rows that no refill shows yet.
    pub(in crate::inbox) fn forget(&mut self, round_is_open: bool) {
        self.ready.clear();
        self.ready_ids.clear();
        self.hungry.clear();
        self.lingering.clear();
        self.in_round.clear();
        self.refilling.clear();
        self.passed = None;
        (self.parked, self.parked_bytes) = (0, 0);
        let (mut key_bytes, mut in_round) = (0, Vec::new());
        self.keys.retain(|name, key| {
            if key.state == State::Free {
                return false;
            }
            key_bytes += super::KEY_BYTES + name.len();
            key.waiting = if key.own.is_some() { Lane::unread_in(round_is_open) } else { Lane::default() };
            // The inbox's lanes are empty now.
            key.own = key.own.map(|_| DeliveryId::default());
            if key.own.is_some() && round_is_open {
                in_round.push(name.clone());
            }
            true
        });
        (self.key_bytes, self.in_round) = (key_bytes, in_round);
    }
}
