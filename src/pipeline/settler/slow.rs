//! Inboxes at whose messages a batch took long: a slow trigger, a lock that is held again and again. Each of them is tried by itself
//! for a moment. Outcomes of one that is slow alone are set aside untried for a while, so that nobody else's wait for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use postbell_engine::inbox::event::Settle;

/// How long an inbox that was slow by itself is not tried.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// An inbox without an outcome for so long is no suspect any more.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// How a part of a batch is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trial {
    /// With those of all other inboxes.
    Together,
    /// By itself, to see whether this inbox is slow.
    Alone,
    /// Without a look at the user's rows.
    Untried,
}

/// The state of an inbox.
#[derive(Clone, Copy, Debug)]
enum Suspicion {
    /// Was in a batch that took long, and not tried by itself since this time.
    Suspect(Instant),
    /// Was slow by itself, and is not tried before this time.
    SlowUntil(Instant),
}

/// The inboxes that are, or may be, slow.
#[derive(Debug, Default)]
pub(super) struct SlowInboxes(HashMap<Arc<str>, Suspicion>);

impl SlowInboxes {
    /// A batch took long: any of its inboxes may be slow.
    pub(super) fn suspect(&mut self, batch: &[Settle], now: Instant) {
        for settle in batch {
            self.0.entry(settle.inbox.clone()).or_insert(Suspicion::Suspect(now));
        }
    }

    /// This inbox was tried by itself.
    pub(super) fn tried(&mut self, inbox: &Arc<str>, is_slow: bool, now: Instant) {
        match is_slow {
            true => _ = self.0.insert(inbox.clone(), Suspicion::SlowUntil(now + SLOW_FOR)),
            false => _ = self.0.remove(inbox),
        }
    }

    /// Parts of a batch, and how each is written. One that is written alone is of one inbox.
    pub(super) fn split(&mut self, batch: Vec<Settle>, now: Instant) -> Vec<(Trial, Vec<Settle>)> {
        if self.0.is_empty() {
            return vec![(Trial::Together, batch)];
        }
        self.0.retain(|_, suspicion| match suspicion {
            Suspicion::Suspect(since) => now.saturating_duration_since(*since) < SUSPECT_FOR,
            Suspicion::SlowUntil(_) => true,
        });
        let mut parts: BTreeMap<(Trial, Option<Arc<str>>), Vec<Settle>> = BTreeMap::new();
        for settle in batch {
            let part = match self.0.get(&settle.inbox) {
                None => (Trial::Together, None),
                Some(Suspicion::SlowUntil(until)) if now < *until => (Trial::Untried, None),
                Some(_) => (Trial::Alone, Some(settle.inbox.clone())),
            };
            parts.entry(part).or_default().push(settle);
        }
        parts.into_iter().map(|((way, _), part)| (way, part)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbell_engine::inbox::event::Outcome;
    use postbell_engine::inbox::{Attempt, DeliveryId};

    fn batch(inboxes: &str) -> Vec<Settle> {
        let settle = |(id, inbox): (usize, char)| Settle {
            inbox: inbox.to_string().into(),
            attempt: Attempt { delivery_id: DeliveryId(id as i64), failed: 0 },
            outcome: Outcome::Expired,
            answer: None,
        };
        inboxes.chars().enumerate().map(settle).collect()
    }

    fn split(slow: &mut SlowInboxes, inboxes: &str, now: Instant) -> Vec<(Trial, String)> {
        let parts = slow.split(batch(inboxes), now).into_iter();
        parts.map(|(way, part)| (way, part.iter().map(|s| &*s.inbox).collect())).collect()
    }

    #[test]
    fn after_a_long_batch_each_of_its_inboxes_is_tried_alone() {
        let (mut slow, now) = (SlowInboxes::default(), Instant::now());
        assert_eq!(split(&mut slow, "aub", now), [(Trial::Together, "aub".to_owned())]);
        slow.suspect(&batch("aua"), now);
        let parts = split(&mut slow, "abuab", now);
        let expected = [(Trial::Together, "bb"), (Trial::Alone, "aa"), (Trial::Alone, "u")];
        assert_eq!(parts, expected.map(|(way, inboxes)| (way, inboxes.to_owned())));
    }

    #[test]
    fn one_that_is_slow_alone_is_not_tried_for_a_while_and_then_again() {
        let (mut slow, now) = (SlowInboxes::default(), Instant::now());
        slow.suspect(&batch("au"), now);
        slow.tried(&"a".into(), true, now);
        slow.tried(&"u".into(), false, now);
        // Another long batch does not shorten its time.
        slow.suspect(&batch("a"), now);
        let parts = split(&mut slow, "au", now + SLOW_FOR / 2);
        assert_eq!(parts, [(Trial::Together, "u".to_owned()), (Trial::Untried, "a".to_owned())]);
        let parts = split(&mut slow, "au", now + SLOW_FOR);
        assert_eq!(parts, [(Trial::Together, "u".to_owned()), (Trial::Alone, "a".to_owned())]);
        slow.tried(&"a".into(), false, now + SLOW_FOR);
        assert_eq!(split(&mut slow, "au", now + SLOW_FOR), [(Trial::Together, "au".to_owned())]);
    }

    #[test]
    fn a_suspect_without_an_outcome_is_forgotten() {
        let (mut slow, now) = (SlowInboxes::default(), Instant::now());
        slow.suspect(&batch("a"), now);
        assert_eq!(split(&mut slow, "ab", now + SUSPECT_FOR), [(Trial::Together, "ab".to_owned())]);
    }
}
