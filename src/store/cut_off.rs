//! Rows at which the server process ends: by a crashing extension, or by a trigger that ends its own session.
//!
//! From outside it looks as if the database went away. But a new connection opens at once, and the same statement loses that
//! one, too. Then the batch is searched by halves, each on a connection that lives, and a row that loses its connection alone is
//! treated as one that is refused.

use std::time::Duration;

use tokio::time::Instant;

/// The reason of a row that was alone when its connection was lost.
pub(crate) const ENDED: &str = "the server process ended while this row was written: look for an extension that crashes or a trigger that ends its session; the server's log says more";
/// The most connections that searches may lose at once.
const AT_ONCE: u32 = 24;
/// A lost connection is forgotten after this time.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(250);

/// Bounds how many connections the searches of one task lose, so that a server is not kept busy with ending processes.
#[derive(Debug)]
pub(crate) struct Losses {
    /// Each forgotten loss moves this on by [`FORGOTTEN_AFTER`].
    since: Instant,
    known: u32,
}

impl Losses {
    /// No connection was lost yet.
    pub(crate) fn new(now: Instant) -> Self {
        Self { since: now, known: 0 }
    }

    /// Notes that a connection was lost.
    pub(crate) fn add(&mut self, now: Instant) {
        self.forget(now);
        self.known += 1;
    }

    /// Whether as many were lost as may be, for now.
    pub(crate) fn are_too_many(&mut self, now: Instant) -> bool {
        self.forget(now);
        self.known >= AT_ONCE
    }

    fn forget(&mut self, now: Instant) {
        let forgotten = now.saturating_duration_since(self.since).as_millis() / FORGOTTEN_AFTER.as_millis();
        let forgotten = u32::try_from(forgotten).unwrap_or(u32::MAX);
        self.known = self.known.saturating_sub(forgotten);
        self.since = if self.known == 0 { now } else { self.since + FORGOTTEN_AFTER * forgotten };
    }
}

/// The halves of a group in which one row is to blame. The second comes first, since whoever searches goes on with what it pushed
/// last: so the rows are tried in their order.
pub(crate) fn halves<T>(group: &[T]) -> [&[T]; 2] {
    let (first, second) = group.split_at(group.len() / 2);
    [second, first]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_tried_in_the_order_of_their_rows() {
        let (mut groups, mut tried) = (vec![[1, 2, 3, 4, 5].as_slice()], Vec::new());
        while let Some(group) = groups.pop() {
            match group {
                [row] => tried.push(*row),
                _ => groups.extend(halves(group)),
            }
        }
        assert_eq!(tried, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn so_many_may_be_lost_at_once_and_four_a_second_later() {
        let now = Instant::now();
        let mut losses = Losses::new(now);
        for _ in 0..AT_ONCE {
            assert!(!losses.are_too_many(now));
            losses.add(now);
        }
        assert!(losses.are_too_many(now + FORGOTTEN_AFTER / 2));
        let later = now + Duration::from_secs(1);
        for _ in 0..4 {
            assert!(!losses.are_too_many(later));
            losses.add(later);
        }
        assert!(losses.are_too_many(later));
        assert!(!losses.are_too_many(later + Duration::from_secs(3_600)));
    }
}
