//! How long deliveries wait for the broker, and not for their agents: what the promise of delivery is measured by.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Dispatcher;
use crate::inbox::owned::Inbox;

/// A round of the tail comes each second at least. After so long without one nobody knows what waits.
pub const TAIL_STALE: Duration = Duration::from_secs(3);

impl Dispatcher {
    /// The longest that something has waited for this broker at this moment, though its agent is here and has room. What is
    /// at hand is pushed at once, so anything but zero says what does not go on: the lease, the database, the tail.
    ///
    /// Call it each second or so: where nothing is known of what waits, it counts from the first call that found it so.
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

    /// How many inboxes this broker serves, or is about to.
    pub fn inboxes(&self) -> usize {
        self.inboxes.len()
    }

    /// Whether some session has room for the next delivery.
    pub(super) fn note_room(&mut self, now: Instant, inbox: &Arc<str>) {
        let Some(state) = self.inboxes.get_mut(inbox) else { return };
        let bytes = Inbox::next(state).map_or(0, |(_, bytes)| bytes);
        let has_room = |id| self.sessions.get(id).is_some_and(|s| s.has_room(bytes));
        let has_room = state.sessions.iter().any(has_room);
        state.note_room(now, has_room);
    }
}
