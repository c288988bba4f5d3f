//! What the client has asked and not heard of yet, and the deliveries that the agent holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use uuid::Uuid;

use super::ClientError;
use crate::protocol::frame::Send;

/// A send's answer.
pub(super) type SendAnswer = oneshot::Sender<Result<Uuid, ClientError>>;
/// A confirmed ack's answer.
pub(super) type AckAnswer = oneshot::Sender<Result<(), ClientError>>;

/// Requests by their `ref`.
#[derive(Default)]
pub(super) struct Pending {
    last: u64,
    sends: BTreeMap<u64, (Box<Send>, SendAnswer)>,
    acks: HashMap<u64, AckAnswer>,
}

impl Pending {
    /// Takes a send; gives back the frame to write.
    pub(super) fn send(&mut self, mut send: Box<Send>, answer: SendAnswer) -> Send {
        self.last += 1;
        send.reference = Some(self.last.to_string());
        let frame = (*send).clone();
        self.sends.insert(self.last, (send, answer));
        frame
    }

    /// Takes an ack to be confirmed; gives back its `ref`.
    pub(super) fn ack(&mut self, answer: AckAnswer) -> String {
        self.last += 1;
        self.acks.insert(self.last, answer);
        self.last.to_string()
    }

    pub(super) fn sent(&mut self, reference: Option<&str>, id: Uuid) {
        if let Some((_, answer)) = number(reference).and_then(|n| self.sends.remove(&n)) {
            // Whoever asked may have stopped waiting.
            let _ = answer.send(Ok(id));
        }
    }

    pub(super) fn acked(&mut self, reference: &str) {
        if let Some(answer) = number(Some(reference)).and_then(|n| self.acks.remove(&n)) {
            let _ = answer.send(Ok(()));
        }
    }

    /// True if somebody was waiting for this refusal.
    pub(super) fn refused(&mut self, reference: Option<&str>, error: &ClientError) -> bool {
        let Some(n) = number(reference) else { return false };
        let (send, ack) = (self.sends.remove(&n), self.acks.remove(&n));
        let known = send.is_some() || ack.is_some();
        if let Some((_, answer)) = send {
            let _ = answer.send(Err(error.clone()));
        }
        if let Some(answer) = ack {
            let _ = answer.send(Err(error.clone()));
        }
        known
    }

    /// The connection fell: what is safe to repeat stays, the rest is told. Gives back what to write again.
    pub(super) fn interrupted(&mut self) -> Vec<Send> {
        for (_, answer) in self.acks.drain() {
            let _ = answer.send(Err(ClientError::Interrupted));
        }
        let unsafe_ones: Vec<u64> =
            self.sends.iter().filter(|(_, (s, _))| s.dedupe_key.is_none()).map(|(n, _)| *n).collect();
        for n in unsafe_ones {
            if let Some((_, answer)) = self.sends.remove(&n) {
                let _ = answer.send(Err(ClientError::Interrupted));
            }
        }
        self.sends.values().map(|(send, _)| (**send).clone()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.acks.is_empty()
    }
}

fn number(reference: Option<&str>) -> Option<u64> {
    reference?.parse().ok()
}

/// The deliveries of this connection that the agent holds, and when their deadlines must be moved.
#[derive(Default)]
pub(super) struct Held {
    deadlines: HashMap<u64, (Duration, Instant)>,
    due: BTreeSet<(Instant, u64)>,
}

impl Held {
    /// A delivery came: its deadline is moved when half of it has passed.
    pub(super) fn insert(&mut self, now: Instant, tag: u64, deadline: Duration) {
        let at = now + deadline / 2;
        self.deadlines.insert(tag, (deadline, at));
        self.due.insert((at, tag));
    }

    pub(super) fn remove(&mut self, tag: u64) {
        if let Some((_, at)) = self.deadlines.remove(&tag) {
            self.due.remove(&(at, tag));
        }
    }

    /// The tags to extend now, each by how much.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<(u64, Duration)> {
        let mut extends = Vec::new();
        while let Some(&(at, tag)) = self.due.first() {
            if at > now {
                break;
            }
            self.due.pop_first();
            if let Some(&(deadline, _)) = self.deadlines.get(&tag) {
                self.insert(now, tag, deadline);
                extends.push((tag, deadline));
            }
        }
        extends
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_delivery_is_extended_again_and_again_until_it_is_settled() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let mut held = Held::default();
        held.insert(now, 1, second * 2);
        held.insert(now, 2, second * 20);
        assert!(held.take_due(now).is_empty());
        assert_eq!(held.take_due(now + second), [(1, second * 2)]);
        assert_eq!(held.take_due(now + second * 2), [(1, second * 2)]);
        held.remove(1);
        assert_eq!(held.next_due(), Some(now + second * 10));
        held.remove(2);
        assert!(held.is_empty() && held.next_due().is_none());
    }
}
