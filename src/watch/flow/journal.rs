//! The last moments of messages: a bounded journal. Pure: it takes `now`.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use tokio::time::Instant;

use uuid::Uuid;

use super::{Step, tenths};
use postbell_engine::bucket::{Bucket, Rate};
use postbell_engine::inbox::Attempt;
use postbell_engine::inbox::event::{Outcome, Push, Settle};

/// The most moments that are kept; beyond that, the oldest is dropped.
const MOMENTS_MAX: usize = 8_192;
/// The rate up to which pushes, acks and expiries are kept. At a higher rate the journal would turn over before
/// anybody read it. Failures and dead letters are always kept.
const BUDGET: Rate = Rate { per_second: 200, burst: 2_000 };
/// The most bytes of a reason.
const REASON_BYTES_MAX: usize = 200;

/// A moment in the life of a delivery.
#[derive(Clone, Debug)]
pub struct Moment {
    /// The time of the step.
    pub at: Instant,
    /// The attempt at the delivery.
    pub attempt: Attempt,
    /// The delivery's message, if it was known.
    pub message_id: Option<Uuid>,
    /// The inbox that the delivery is in.
    pub inbox: Arc<str>,
    /// The step that the delivery took.
    pub step: Step,
    /// For a push the age of the message, for an ack the agent's own work; in milliseconds.
    pub ms: Option<f64>,
    /// The reason, if the attempt failed.
    pub reason: Option<Box<str>>,
}

#[derive(Debug)]
pub(super) struct Journal {
    moments: VecDeque<Moment>,
    budget: Bucket,
}

impl Journal {
    pub(super) fn new(now: Instant) -> Self {
        Self { moments: VecDeque::new(), budget: Bucket::new(now.into_std(), BUDGET) }
    }

    pub(super) fn pushed(&mut self, now: Instant, inbox: &Arc<str>, pushes: &[Push]) {
        for push in pushes {
            if !self.may_keep(now) {
                return;
            }
            let (age, at) = push.age;
            self.keep(Moment {
                at: now,
                attempt: push.attempt,
                message_id: Some(push.message_id),
                inbox: inbox.clone(),
                step: Step::Pushed,
                ms: Some(tenths(age + now.saturating_duration_since(Instant::from_std(at)))),
                reason: None,
            });
        }
    }

    pub(super) fn settled(&mut self, now: Instant, settles: &[Settle]) {
        // Once the budget is used up it stays so for the rest of the call.
        let mut room = true;
        for settle in settles {
            let ms = match settle.outcome {
                Outcome::Ack { handled } => Some(tenths(handled)),
                _ => None,
            };
            let reason = match &settle.outcome {
                Outcome::Fail { reason, .. } | Outcome::Dead { reason, .. } => Some(cut(reason).into()),
                _ => None,
            };
            if reason.is_none() {
                room = room && self.may_keep(now);
                if !room {
                    continue;
                }
            }
            self.keep(Moment {
                at: now,
                attempt: settle.attempt,
                message_id: None,
                inbox: settle.inbox.clone(),
                step: Step::of(&settle.outcome),
                ms,
                reason,
            });
        }
    }

    /// The moments of these messages, oldest first. Outcomes name only the delivery; its push tells the message.
    pub(super) fn of(&self, messages: &[Uuid]) -> Vec<Moment> {
        let wanted: HashSet<&Uuid> = messages.iter().collect();
        let mut deliveries = std::collections::HashMap::new();
        let mut found = Vec::new();
        for moment in &self.moments {
            let message = moment.message_id.or_else(|| deliveries.get(&moment.attempt.delivery_id).copied());
            let Some(message) = message.filter(|m| wanted.contains(m)) else { continue };
            deliveries.insert(moment.attempt.delivery_id, message);
            found.push(Moment { message_id: Some(message), ..moment.clone() });
        }
        found
    }

    fn may_keep(&mut self, now: Instant) -> bool {
        let room = self.budget.wait(now.into_std(), 1).is_zero();
        if room {
            self.budget.take(1);
        }
        room
    }

    fn keep(&mut self, moment: Moment) {
        if self.moments.len() >= MOMENTS_MAX {
            self.moments.pop_front();
        }
        self.moments.push_back(moment);
    }
}

fn cut(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use postbell_engine::inbox::event::FailCause;
    use postbell_engine::inbox::{DeliveryId, Tag};

    fn push(delivery_id: i64, message: u128) -> Push {
        Push {
            tag: Tag(1),
            attempt: Attempt { delivery_id: DeliveryId(delivery_id), failed: 0 },
            message_id: Uuid::from_u128(message),
            deadline: Duration::ZERO,
            age: (Duration::ZERO, Instant::now().into_std()),
            waited: Duration::ZERO,
            trace: None,
            body: bytes::Bytes::new(),
        }
    }

    fn settle(delivery_id: i64, outcome: Outcome) -> Settle {
        let attempt = Attempt { delivery_id: DeliveryId(delivery_id), failed: 0 };
        Settle { inbox: "a".into(), attempt, outcome, answer: None }
    }

    fn fail() -> Outcome {
        Outcome::Fail { delay: Duration::ZERO, cause: FailCause::Nack, reason: "ä".repeat(200) }
    }

    #[test]
    fn a_life_is_told_by_its_message() {
        let now = Instant::now();
        let mut journal = Journal::new(now);
        journal.pushed(now, &"a".into(), &[push(1, 10), push(2, 20)]);
        journal.settled(now, &[settle(1, fail()), settle(2, Outcome::Expired), settle(3, Outcome::Expired)]);
        let life = journal.of(&[Uuid::from_u128(10)]);
        assert_eq!(life.iter().map(|m| m.step).collect::<Vec<_>>(), [Step::Pushed, Step::Failed]);
        assert_eq!(life[1].reason.as_deref().map(str::len), Some(200));
    }

    #[test]
    fn a_flood_keeps_to_its_budget_and_failures_are_kept_all_the_same() {
        let now = Instant::now();
        let mut journal = Journal::new(now);
        let flood: Vec<_> = (0..100_000).map(|n| push(n, n as u128)).collect();
        journal.pushed(now, &"a".into(), &flood);
        assert_eq!(journal.moments.len() as u64, BUDGET.burst);
        journal.settled(now, &(0..10_000).map(|n| settle(n, fail())).collect::<Vec<_>>());
        assert_eq!(journal.moments.len(), MOMENTS_MAX);
    }
}
