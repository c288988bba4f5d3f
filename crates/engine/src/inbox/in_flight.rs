//! The deliveries in flight, by session and tag, each with its deadline.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Attempt, SessionId, Tag};

/// A delivery longer in flight than this is marked `delivered` in the table. Most are acknowledged before and
/// cost no mark.
pub const MARK_AFTER: Duration = Duration::from_secs(1);

/// A delivery in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flight {
    /// The inbox that it came from.
    pub inbox: Arc<str>,
    /// The attempt that the push began.
    pub attempt: Attempt,
    /// The id of its message.
    pub message_id: Uuid,
    /// The size of its body, counted against the session's bound in bytes.
    pub bytes: usize,
    /// When it was pushed.
    pub pushed_at: Instant,
    /// When the attempt counts as failed.
    pub deadline: Instant,
    /// Pushed beside the window, as a reply.
    pub is_reply: bool,
    /// The agent has said that it has begun with this delivery.
    pub begun: bool,
    /// Pushed apart: alone with its session, to see whether the agent survives it.
    pub apart: bool,
}

/// Every delivery in flight. Each is once in `by_tag` and once in `deadlines`, with the same deadline.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    by_tag: BTreeMap<(SessionId, Tag), Flight>,
    deadlines: BTreeSet<(Instant, SessionId, Tag)>,
    /// In the order of pushing; entries without a flight any more are dropped when their time comes.
    unmarked: VecDeque<(Instant, SessionId, Tag)>,
}

impl InFlight {
    /// How many deliveries are in flight.
    pub(super) fn len(&self) -> usize {
        self.by_tag.len()
    }

    /// Adds a delivery that was pushed to a session.
    pub(super) fn insert(&mut self, session: SessionId, tag: Tag, flight: Flight) {
        self.deadlines.insert((flight.deadline, session, tag));
        self.unmarked.push_back((flight.pushed_at, session, tag));
        self.by_tag.insert((session, tag), flight);
        debug_assert_eq!(self.by_tag.len(), self.deadlines.len());
    }

    /// Removes a delivery that has its outcome; `None` if this session has no such tag, or no more.
    pub(super) fn take(&mut self, session: SessionId, tag: Tag) -> Option<Flight> {
        let flight = self.by_tag.remove(&(session, tag))?;
        self.deadlines.remove(&(flight.deadline, session, tag));
        Some(flight)
    }

    /// Moves a deadline, at most to `latest` after the push; false if this session has no such tag, or no more.
    pub(super) fn extend(
        &mut self,
        session: SessionId,
        tag: Tag,
        deadline: Instant,
        latest: Duration,
    ) -> bool {
        let Some(flight) = self.by_tag.get_mut(&(session, tag)) else { return false };
        let deadline = flight.pushed_at.checked_add(latest).map_or(deadline, |latest| deadline.min(latest));
        self.deadlines.remove(&(flight.deadline, session, tag));
        flight.deadline = deadline;
        self.deadlines.insert((deadline, session, tag));
        true
    }

    /// Notes that the agent has begun with a delivery.
    pub(super) fn begin(&mut self, session: SessionId, tag: Tag) {
        if let Some(flight) = self.by_tag.get_mut(&(session, tag)) {
            flight.begun = true;
        }
    }

    /// Removes everything of a session that ended, the oldest push first.
    pub(super) fn take_session(&mut self, session: SessionId) -> Vec<(Tag, Flight)> {
        let tags: Vec<Tag> =
            self.by_tag.range((session, Tag::NONE)..=(session, Tag::MAX)).map(|((_, tag), _)| *tag).collect();
        tags.into_iter().filter_map(|tag| Some((tag, self.take(session, tag)?))).collect()
    }

    /// Removes one delivery whose deadline has passed.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<(SessionId, Tag, Flight)> {
        let &(deadline, session, tag) = self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        Some((session, tag, self.take(session, tag)?))
    }

    /// The messages in flight for [`MARK_AFTER`] by now, each once.
    pub(super) fn take_to_mark(&mut self, now: Instant) -> Vec<Uuid> {
        let mut messages = Vec::new();
        while let Some(&(pushed_at, session, tag)) = self.unmarked.front() {
            if pushed_at + MARK_AFTER > now {
                break;
            }
            self.unmarked.pop_front();
            messages.extend(self.by_tag.get(&(session, tag)).map(|f| f.message_id));
        }
        messages
    }

    /// The next moment at which a deadline passes or a mark is due.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|d| d.0);
        let mark = self.unmarked.front().map(|u| u.0 + MARK_AFTER);
        deadline.into_iter().chain(mark).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::DeliveryId;

    const LONG: Duration = Duration::from_secs(3600);

    fn flight(id: i64, at: Instant, deadline: Instant) -> Flight {
        Flight {
            inbox: "a".into(),
            attempt: Attempt { delivery_id: DeliveryId(id), failed: 0 },
            message_id: Uuid::from_u128(id as u128),
            bytes: 10,
            pushed_at: at,
            deadline,
            is_reply: false,
            begun: false,
            apart: false,
        }
    }

    #[test]
    fn a_tag_is_settled_once() {
        let now = Instant::now();
        let mut all = InFlight::default();
        all.insert(SessionId(1), Tag(1), flight(7, now, now));
        assert_eq!(all.take(SessionId(2), Tag(1)), None, "another session's tag");
        assert_eq!(all.take(SessionId(1), Tag(1)).map(|f| f.attempt.delivery_id.0), Some(7));
        assert_eq!(all.take(SessionId(1), Tag(1)), None);
        assert!(all.take_overdue(now).is_none());
    }

    #[test]
    fn the_earliest_deadline_comes_first_and_an_extended_one_later() {
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut all = InFlight::default();
        all.insert(SessionId(1), Tag(1), flight(1, now, at(30)));
        all.insert(SessionId(1), Tag(2), flight(2, now, at(20)));
        all.insert(SessionId(2), Tag(1), flight(3, now, at(10)));
        assert!(all.extend(SessionId(2), Tag(1), at(25), LONG));
        assert!(!all.extend(SessionId(2), Tag(9), at(25), LONG));
        assert!(all.take_overdue(at(19)).is_none());
        let order: Vec<i64> = std::iter::from_fn(|| all.take_overdue(at(30)))
            .map(|(_, _, f)| f.attempt.delivery_id.0)
            .collect();
        assert_eq!(order, [2, 3, 1]);
    }

    #[test]
    fn no_extension_goes_beyond_the_longest_hold() {
        let now = Instant::now();
        let at = |s| now + Duration::from_secs(s);
        let mut all = InFlight::default();
        all.insert(SessionId(1), Tag(1), flight(1, now, at(30)));
        for _ in 0..3 {
            assert!(all.extend(SessionId(1), Tag(1), at(600_000), Duration::from_secs(90)));
        }
        assert!(all.take_overdue(at(89)).is_none());
        assert_eq!(all.take_overdue(at(90)).map(|(_, tag, _)| tag), Some(Tag(1)));
    }

    #[test]
    fn only_what_is_still_in_flight_is_marked_and_once() {
        let now = Instant::now();
        let mut all = InFlight::default();
        all.insert(SessionId(1), Tag(1), flight(1, now, now + Duration::from_secs(30)));
        all.insert(SessionId(1), Tag(2), flight(2, now, now + Duration::from_secs(30)));
        all.take(SessionId(1), Tag(1));
        assert!(all.take_to_mark(now).is_empty());
        assert_eq!(all.next_wake(), Some(now + MARK_AFTER));
        assert_eq!(all.take_to_mark(now + MARK_AFTER), [Uuid::from_u128(2)]);
        assert!(all.take_to_mark(now + MARK_AFTER).is_empty());
    }

    #[test]
    fn a_session_that_ends_gives_up_its_own() {
        let now = Instant::now();
        let mut all = InFlight::default();
        for (session, tag) in [(1, 1), (2, 1), (2, 2), (3, 1)] {
            all.insert(SessionId(session), Tag(tag), flight(session as i64 * 10 + tag as i64, now, now));
        }
        let ids: Vec<i64> =
            all.take_session(SessionId(2)).into_iter().map(|(_, f)| f.attempt.delivery_id.0).collect();
        assert_eq!(ids, [21, 22]);
        assert_eq!(all.len(), 2);
    }
}
