//! The deliveries of this connection that the agent holds, and when their deadlines must be moved, or pass.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;

use uuid::Uuid;

use crate::protocol::Tag;

/// While a delivery is held, the client looks at the clock so often within the shortest deadline.
const LOOKS: u32 = 8;

struct Holding {
    id: Uuid,
    deadline: Duration,
    /// When the deadline must be moved, or passes.
    at: Instant,
    /// When the broker takes the delivery back, unless its deadline is moved before.
    ends: Instant,
}

/// The held deliveries by tag, and in the order in which something is due.
#[derive(Default)]
pub(super) struct Held {
    held: HashMap<Tag, Holding>,
    due: BTreeSet<(Instant, Tag)>,
    /// The shortest deadline since the last moment when nothing was held.
    shortest: Option<Duration>,
}

/// The work that is due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// The tags to extend, each with the time from now.
    pub(super) extends: Vec<(Tag, Duration)>,
    /// The messages whose deadline has passed.
    pub(super) passed: Vec<Uuid>,
}

impl Held {
    /// Adds a delivery. With `extends`, its deadline is moved when half of it has passed.
    pub(super) fn insert(&mut self, now: Instant, tag: Tag, id: Uuid, deadline: Duration, extends: bool) {
        let at = now + if extends { deadline / 2 } else { deadline };
        self.held.insert(tag, Holding { id, deadline, at, ends: now + deadline });
        self.due.insert((at, tag));
        self.shortest = Some(self.shortest.map_or(deadline, |shortest| shortest.min(deadline)));
    }

    pub(super) fn remove(&mut self, tag: Tag) {
        if let Some(Holding { at, .. }) = self.held.remove(&tag) {
            self.due.remove(&(at, tag));
        }
        if self.held.is_empty() {
            self.shortest = None;
        }
    }

    /// Takes the work that is due now.
    pub(super) fn take_due(&mut self, now: Instant) -> Due {
        let mut found = Due::default();
        while let Some(&(at, tag)) = self.due.first() {
            if at > now {
                break;
            }
            self.due.pop_first();
            let Some(holding) = self.held.get_mut(&tag) else { continue };
            if now >= holding.ends {
                // The broker has taken the delivery back: there is no deadline to move any more.
                found.passed.push(holding.id);
                continue;
            }
            (holding.at, holding.ends) = (now + holding.deadline / 2, now + holding.deadline);
            self.due.insert((holding.at, tag));
            found.extends.push((tag, holding.deadline));
        }
        found
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// When to look at the clock next, whatever happens: a late look shows that the runtime was blocked.
    pub(super) fn next_look(&self, now: Instant) -> Option<Instant> {
        self.shortest.map(|shortest| now + shortest / LOOKS)
    }

    /// How late a wake-up came that was wanted at this moment, if that is more than half of a deadline.
    pub(super) fn was_blocked(&self, wanted: Instant, now: Instant) -> Option<Duration> {
        let late = now.saturating_duration_since(wanted);
        self.shortest.is_some_and(|shortest| late > shortest / 2).then_some(late)
    }

    /// The messages that are held, to name some of them.
    pub(super) fn some(&self) -> impl Iterator<Item = Uuid> {
        self.held.values().map(|holding| holding.id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_held_delivery_is_extended_again_and_again_until_it_is_settled() {
        let now = Instant::now();
        let mut held = Held::default();
        held.insert(now, Tag(1), Uuid::nil(), SECOND * 2, true);
        held.insert(now, Tag(2), Uuid::nil(), SECOND * 20, true);
        assert_eq!(held.take_due(now), Due::default());
        assert_eq!(held.take_due(now + SECOND).extends, [(Tag(1), SECOND * 2)]);
        assert_eq!(held.take_due(now + SECOND * 2).extends, [(Tag(1), SECOND * 2)]);
        held.remove(Tag(1));
        assert_eq!(held.next_due(), Some(now + SECOND * 10));
        held.remove(Tag(2));
        assert!(held.is_empty() && held.next_due().is_none() && held.next_look(now).is_none());
    }

    #[test]
    fn a_deadline_that_passed_is_told_once() {
        let (now, id) = (Instant::now(), Uuid::from_u128(7));
        let mut held = Held::default();
        held.insert(now, Tag(1), id, SECOND, false);
        assert_eq!(held.take_due(now + SECOND / 2), Due::default());
        assert_eq!(held.take_due(now + SECOND), Due { extends: Vec::new(), passed: vec![id] });
        assert_eq!(held.take_due(now + SECOND * 9), Due::default());
        // The deadline could not be moved in time.
        held.insert(now, Tag(2), id, SECOND, true);
        assert_eq!(held.take_due(now + SECOND).passed, [id]);
    }

    #[test]
    fn whoever_wakes_too_late_was_blocked() {
        let now = Instant::now();
        let mut held = Held::default();
        assert_eq!(held.was_blocked(now, now + SECOND), None, "nothing is held");
        held.insert(now, Tag(1), Uuid::nil(), SECOND, true);
        assert_eq!(held.next_look(now), Some(now + SECOND / LOOKS));
        assert_eq!(held.was_blocked(now, now + SECOND / 2), None);
        assert_eq!(held.was_blocked(now, now + SECOND), Some(SECOND));
    }
}
