//! Gathers the steps between two frames: the first ones each by itself, the rest counted. Pure: it takes `now`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio::time::Instant;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Step, tenths};
use postbell_engine::inbox::DeliveryId;
use postbell_engine::inbox::event::{Outcome, Push, Settle};

/// The most steps that a frame tells one by one.
const EVENTS_MAX: usize = 50;
/// The most counts by step and inbox; the rest is only summed up.
const COUNTED_MAX: usize = 200;
/// The most deliveries whose message is remembered until their outcome, so that an ack can be told with its sender.
const HEADS_MAX: usize = 2_048;
/// The part of a line before headers and payload is shorter, unless SQL wrote very long names.
const HEAD_BYTES_MAX: usize = 4_096;

/// A step of a delivery, as those who watch are told, without payload and reason, because everybody who may watch
/// sees the step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    /// The step that the delivery took.
    pub step: Step,
    /// The time between the step and its frame.
    pub ago_ms: u64,
    /// The inbox that the delivery is in.
    pub to: String,
    /// The delivery's id.
    pub delivery: i64,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// For a push the age of the message, for an ack the agent's own work; in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
    /// The message, as far as it is known.
    #[serde(flatten)]
    pub head: Head,
}

/// The message of a step, and the agent that has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// The message's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
    /// The message's sender.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The message's type.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub message_type: Option<String>,
    /// The message's priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// The message's topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// The agent whose session has it, if the inbox is a group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// Steps that are only counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct More {
    /// The step that the deliveries took.
    pub step: Step,
    /// The inbox of the deliveries; `None` for all other inboxes together.
    pub to: Option<String>,
    /// How many steps there were.
    pub count: u64,
}

/// The steps of a fraction of a second.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frame {
    /// The first steps, one by one, in their order.
    pub events: Vec<Passed>,
    /// The other steps, counted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more: Vec<More>,
}

#[derive(Debug, Default)]
pub(super) struct Gathering {
    events: Vec<(Instant, Passed)>,
    more: HashMap<(Step, Option<Arc<str>>), u64>,
    heads: HashMap<DeliveryId, Head>,
    /// Ids of the remembered deliveries in the order of their pushes.
    order: VecDeque<DeliveryId>,
}

impl Gathering {
    pub(super) fn pushed(&mut self, now: Instant, inbox: &Arc<str>, agent: Option<&str>, pushes: &[Push]) {
        for push in pushes {
            if self.events.len() >= EVENTS_MAX {
                self.count(Step::Pushed, inbox);
                continue;
            }
            let head = Head { agent: agent.map(str::to_owned), ..head(&push.body) };
            self.remember(push.attempt.delivery_id, &head);
            let (age, at) = push.age;
            let passed = Passed {
                step: Step::Pushed,
                ago_ms: 0,
                to: inbox.to_string(),
                delivery: push.attempt.delivery_id.0,
                attempt: push.attempt.number(),
                ms: Some(tenths(age + now.saturating_duration_since(Instant::from_std(at)))),
                head,
            };
            self.events.push((now, passed));
        }
    }

    pub(super) fn settled(&mut self, now: Instant, settles: &[Settle]) {
        for settle in settles {
            let step = Step::of(&settle.outcome);
            // The id stays in `order` and is skipped when its turn comes.
            let head = self.heads.remove(&settle.attempt.delivery_id);
            if self.events.len() >= EVENTS_MAX {
                self.count(step, &settle.inbox);
                continue;
            }
            let ms = match settle.outcome {
                Outcome::Ack { handled } => Some(tenths(handled)),
                _ => None,
            };
            let passed = Passed {
                step,
                ago_ms: 0,
                to: settle.inbox.to_string(),
                delivery: settle.attempt.delivery_id.0,
                attempt: settle.attempt.number(),
                ms,
                head: head.unwrap_or_default(),
            };
            self.events.push((now, passed));
        }
    }

    pub(super) fn take(&mut self, now: Instant) -> Option<Frame> {
        if self.events.is_empty() {
            return None;
        }
        let aged = |(at, passed): (Instant, Passed)| Passed {
            ago_ms: now.saturating_duration_since(at).as_millis() as u64,
            ..passed
        };
        let events = std::mem::take(&mut self.events).into_iter().map(aged).collect();
        let more = self.more.drain().map(|((step, to), count)| More {
            step,
            to: to.map(|to| to.to_string()),
            count,
        });
        Some(Frame { events, more: more.collect() })
    }

    fn count(&mut self, step: Step, inbox: &Arc<str>) {
        let mut key = (step, Some(inbox.clone()));
        if self.more.len() >= COUNTED_MAX && !self.more.contains_key(&key) {
            key.1 = None;
        }
        *self.more.entry(key).or_default() += 1;
    }

    fn remember(&mut self, delivery: DeliveryId, head: &Head) {
        if self.order.len() >= HEADS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.heads.remove(&oldest);
        }
        self.order.push_back(delivery);
        self.heads.insert(delivery, head.clone());
    }
}

/// Reads the part of a `msg` line before headers and payload, which may be a megabyte. Inside a JSON string a quote
/// is escaped, so the first such key is the line's own.
fn head(body: &[u8]) -> Head {
    let body = &body[..body.len().min(HEAD_BYTES_MAX)];
    let ends = [&b",\"headers\":"[..], b",\"payload\":"];
    let end = (0..body.len()).find(|at| ends.iter().any(|end| body[*at..].starts_with(end)));
    let Some(end) = end else { return Head::default() };
    let json = [b"{", &body[..end], b"}"].concat();
    serde_json::from_slice(&json).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::value::RawValue;

    use super::*;
    use postbell_client::protocol::frame::MsgBody;
    use postbell_engine::inbox::{Attempt, Tag};

    fn push(delivery_id: i64, from: &str) -> Push {
        let payload = RawValue::from_string(r#"{"from":"payload","id":1}"#.to_owned()).expect("JSON");
        let body = MsgBody {
            id: Uuid::from_u128(delivery_id as u128),
            from,
            message_type: "data",
            priority: 3,
            created_at: "2026-11-25T00:00:00Z",
            topic: None,
            group: None,
            correlation_id: None,
            headers: Some(&payload),
            payload: &payload,
        };
        Push {
            tag: Tag(1),
            attempt: attempt(delivery_id),
            message_id: Uuid::from_u128(delivery_id as u128),
            deadline: Duration::ZERO,
            age: (Duration::from_micros(1_960), Instant::now().into_std()),
            waited: Duration::ZERO,
            trace: None,
            body: body.encode().into(),
        }
    }

    fn attempt(delivery_id: i64) -> Attempt {
        Attempt { delivery_id: DeliveryId(delivery_id), failed: 1 }
    }

    fn acked(delivery_id: i64) -> Settle {
        let outcome = Outcome::Ack { handled: Duration::from_millis(7) };
        Settle { inbox: "to".into(), attempt: attempt(delivery_id), outcome, answer: None }
    }

    #[test]
    fn a_push_and_its_ack_are_told_with_their_message() {
        let mut gathering = Gathering::default();
        let hostile = r#"a","payload":{"x"#;
        let one = push(5, hostile);
        gathering.pushed(Instant::from_std(one.age.1), &"to".into(), Some("who"), &[one]);
        gathering.settled(Instant::now(), &[acked(5), acked(6)]);
        let frame = gathering.take(Instant::now()).expect("a frame");
        let told: Vec<_> = frame.events.iter().map(|e| (e.step, e.ms, e.head.from.as_deref())).collect();
        assert_eq!(
            told,
            [
                (Step::Pushed, Some(2.0), Some(hostile)),
                (Step::Acked, Some(7.0), Some(hostile)),
                (Step::Acked, Some(7.0), None),
            ]
        );
        assert_eq!(frame.events[1].head.agent.as_deref(), Some("who"));
        assert_eq!((frame.events[0].head.priority, frame.events[0].attempt), (Some(3), 2));
        assert!(gathering.take(Instant::now()).is_none() && gathering.heads.is_empty());
        let json = serde_json::to_string(&frame).expect("JSON");
        assert_eq!(serde_json::from_str::<Frame>(&json).expect("a frame"), frame);
    }

    #[test]
    fn a_flood_is_counted_and_bounded() {
        let mut gathering = Gathering::default();
        for inbox in 0..1_000 {
            let inbox: Arc<str> = format!("agent {inbox}").into();
            gathering.pushed(Instant::now(), &inbox, None, &[push(1, "a"), push(2, "b")]);
        }
        for n in 0..10_000 {
            gathering.events.clear();
            gathering.pushed(Instant::now(), &"x".into(), None, &[push(n, "a")]);
        }
        assert!(gathering.heads.len() <= HEADS_MAX && gathering.order.len() <= HEADS_MAX);
        let more = gathering.take(Instant::now()).expect("a frame").more;
        assert!(more.len() <= COUNTED_MAX + 1, "{}", more.len());
        assert_eq!(more.iter().map(|m| m.count).sum::<u64>(), 2_000 - EVENTS_MAX as u64);
        assert!(more.iter().any(|m| m.to.is_none()));
    }
}
