//! Inboxes at whose messages a batch took long: a slow trigger, a lock that is held again and again. Each of them is tried by itself
//! for a moment. Outcomes of one that is slow alone are set aside untried for a while, so that nobody else's wait for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use uuid::Uuid;

use super::{Desk, Settler, leaves_doubt};
use crate::store::StoreError;
use crate::store::settle::{Kind, Settled, settle_each, settle_within};
use postbell_engine::inbox::event::Settle;

/// How long an inbox that was slow by itself is not tried.
const SLOW_FOR: Duration = Duration::from_secs(10);
/// An inbox without an outcome for so long is no suspect any more.
const SUSPECT_FOR: Duration = Duration::from_secs(60);

/// How long the outcomes of one inbox that may be slow may take, and all such inboxes in one turn.
const ALONE_WAIT: Duration = Duration::from_millis(150);
pub(super) const ALONE_MAX: Duration = Duration::from_millis(300);

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

impl Settler {
    /// Writes a part of a batch. One of an inbox that may be slow, or is, takes nobody else's time: it is set aside, or waits
    /// apart if even that is slow.
    pub(super) async fn write_part(
        &self,
        desk: &mut Desk,
        kind: Kind,
        trial: Trial,
        batch: &[Settle],
    ) -> Settled {
        let is_alone = trial == Trial::Alone && Instant::now() < desk.alone_until;
        let tried = match trial {
            Trial::Together => return self.write(desk, kind, batch, false).await,
            Trial::Alone if is_alone => desk.try_alone(self.broker, kind, batch).await,
            Trial::Alone | Trial::Untried => desk.write_untried(self.broker, batch).await,
        };
        match tried {
            Ok(settled) => {
                self.note_aside(desk, &settled);
                settled
            }
            Err(e) if e.is_slow() => Settled::all_hurt(batch.len(), &e),
            Err(e) => self.write(desk, kind, batch, leaves_doubt(&e)).await,
        }
    }
}

impl Desk {
    /// Parts of a batch of one kind. A lane is changed in Postbell's own table alone.
    pub(super) fn parts(&mut self, kind: Kind, batch: Vec<Settle>) -> Vec<(Trial, Vec<Settle>)> {
        match kind.marks() {
            true => self.slow.split(batch, Instant::now()),
            false => vec![(Trial::Together, batch)],
        }
    }

    /// Writes the outcomes of one inbox if that takes a moment at most.
    async fn try_alone(&mut self, broker: Uuid, kind: Kind, batch: &[Settle]) -> Result<Settled, StoreError> {
        let tried = settle_within(self.connection.get().await?, broker, kind, batch, ALONE_WAIT).await;
        let is_slow = tried.as_ref().is_err_and(StoreError::is_slow);
        if let Some(first) = batch.first() {
            self.slow.tried(&first.inbox, is_slow, Instant::now());
        }
        match is_slow {
            true => self.write_untried(broker, batch).await,
            false => tried,
        }
    }

    async fn write_untried(&mut self, broker: Uuid, batch: &[Settle]) -> Result<Settled, StoreError> {
        settle_each(self.connection.get().await?, broker, batch, false).await
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
