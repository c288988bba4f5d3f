//! How long deliveries wait for the broker, as opposed to their agents: the promise of delivery is measured by
//! this.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Dispatcher;
use crate::inbox::owned::Inbox;

/// The tail runs every two seconds at least. After so long without a round nobody knows which deliveries wait.
pub const TAIL_STALE: Duration = Duration::from_secs(3);

impl Dispatcher {
    /// The longest that a delivery has waited for this broker by now, although its agent is here and has room.
    /// Deliveries in memory are pushed at once, so anything but zero means that the lease, the database or the
    /// tail does not go on.
    ///
    /// Call this about once a second: if it is not known which deliveries wait, the wait counts from the first
    /// call that found it so.
    pub fn longest_wait(&mut self, now: Instant) -> Duration {
        let (mut longest, mut has_room) = (Duration::ZERO, false);
        let sessions = &self.sessions;
        for state in self.inboxes.values_mut() {
            if state.sessions.iter().any(|id| sessions.get(id).is_some_and(|s| s.has_room(0))) {
                has_room = true;
                longest = longest.max(state.longest_wait(now));
            } else {
                state.note_room(now, false);
            }
        }
        let tail = self.tailed_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if has_room && tail >= TAIL_STALE { longest.max(tail) } else { longest }
    }

    /// How many inboxes this broker owns, asks for, or still settles outcomes of.
    pub fn inboxes(&self) -> usize {
        self.inboxes.len()
    }

    /// Notes whether some session of the inbox has room for the next delivery.
    pub(super) fn note_room(&mut self, now: Instant, inbox: &Arc<str>) {
        let Some(state) = self.inboxes.get_mut(inbox) else { return };
        let bytes = Inbox::next(state).map_or(0, |(_, bytes)| bytes);
        let has_room = |id| self.sessions.get(id).is_some_and(|s| s.has_room(bytes));
        let has_room = state.sessions.iter().any(has_room);
        state.note_room(now, has_room);
    }
}
