//! Absences whose alert was refused by itself: each waits apart, so that it stands in no other's way.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// When a refused one is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// The most absences that wait apart.
const APART_MAX: usize = 1_000;

#[derive(Debug, Default)]
pub(super) struct Apart(BTreeMap<i64, Instant>);

impl Apart {
    /// The absences to leave out now, by their ids.
    pub(super) fn spans(&mut self, now: Instant) -> Vec<i64> {
        self.0.retain(|_, again_at| *again_at > now);
        self.0.keys().copied().collect()
    }

    /// Leaves an absence out for a minute. Returns whether there was room.
    pub(super) fn add(&mut self, span: i64, now: Instant) -> bool {
        let has_room = self.0.len() < APART_MAX;
        if has_room {
            self.0.insert(span, now + AGAIN_AFTER);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_absence_is_left_out_for_a_minute() {
        let (mut apart, now) = (Apart::default(), Instant::now());
        assert!(apart.add(7, now) && apart.add(3, now + Duration::from_secs(1)));
        assert_eq!(apart.spans(now + Duration::from_secs(59)), [3, 7]);
        assert_eq!(apart.spans(now + AGAIN_AFTER), [3]);
        assert_eq!(apart.spans(now + AGAIN_AFTER * 2), Vec::<i64>::new());
    }

    #[test]
    fn there_is_room_for_a_thousand() {
        let (mut apart, now) = (Apart::default(), Instant::now());
        let taken = (0..2_000).filter(|span| apart.add(*span, now)).count();
        assert_eq!(taken, APART_MAX);
    }
}
