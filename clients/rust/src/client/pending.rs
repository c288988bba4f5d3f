//! The requests of the client that are not answered yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use tokio::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use uuid::Uuid;

use super::{ClientError, Delivery};
use crate::message::MessageType;
use crate::protocol::frame::Send;
use crate::protocol::frame::dead::{Chosen, Dead, DeadLetters, Done};
use crate::protocol::frame::lock::{AcquireLock, Lock, LockReleased, ReleaseLock};
use crate::protocol::{ClientFrame, ServerFrame};

/// The sender for the answer to a send, with the send's share of the room, which is given back with the answer.
#[derive(Debug)]
pub(super) struct SendAnswer {
    pub(super) answer: oneshot::Sender<Result<Uuid, ClientError>>,
    pub(super) _share: Option<OwnedSemaphorePermit>,
}

impl SendAnswer {
    pub(super) fn send(self, outcome: Result<Uuid, ClientError>) {
        // The caller may have stopped waiting.
        let _ = self.answer.send(outcome);
    }
}

/// The sender for the confirmation of an ack or a subscription.
pub(super) type AckAnswer = oneshot::Sender<Result<(), ClientError>>;

/// The sender for the answer about dead letters or locks.
pub(super) type AskAnswer = oneshot::Sender<Result<ServerFrame, ClientError>>;

/// Requests by their `ref`.
#[derive(Default)]
pub(super) struct Pending {
    last: u64,
    sends: BTreeMap<u64, (Box<Send>, SendAnswer)>,
    acks: HashMap<u64, AckAnswer>,
    asks: HashMap<u64, AskAnswer>,
    /// The callers that wait for the answer to a message, by its correlation id.
    questions: HashMap<String, oneshot::Sender<Delivery>>,
    /// Sends that wait: those refused by `slow_down`, those that came after the first of them (so that the
    /// order is kept as far as possible), and those that came while no broker was connected.
    held: BTreeSet<u64>,
    /// The waiting sends go no earlier than this.
    resume_at: Option<Instant>,
}

/// The most sends under way while others wait: each answer lets the next one go, so that few are refused again.
const RESUMED_MAX: usize = 256;

impl Pending {
    /// Takes a send; returns the frame to write, unless the send must wait.
    pub(super) fn send(&mut self, mut send: Box<Send>, answer: SendAnswer) -> Option<Send> {
        self.last += 1;
        send.reference = Some(self.last.to_string());
        let frame = self.held.is_empty().then(|| (*send).clone());
        if frame.is_none() {
            self.held.insert(self.last);
        }
        self.sends.insert(self.last, (send, answer));
        frame
    }

    /// Takes a send while no broker is connected; it goes when one is.
    pub(super) fn hold(&mut self, mut send: Box<Send>, answer: SendAnswer) {
        self.last += 1;
        send.reference = Some(self.last.to_string());
        self.held.insert(self.last);
        self.sends.insert(self.last, (send, answer));
    }

    /// Ends the client: everybody who waits is told why.
    pub(super) fn end(&mut self, error: &ClientError) {
        for (_, (_, answer)) in std::mem::take(&mut self.sends) {
            answer.send(Err(error.clone()));
        }
        for (_, answer) in self.acks.drain() {
            let _ = answer.send(Err(error.clone()));
        }
        for (_, answer) in self.asks.drain() {
            let _ = answer.send(Err(error.clone()));
        }
        self.held.clear();
        self.questions.clear();
    }

    /// Takes the sender for a confirmation; returns the `ref` for it.
    pub(super) fn ack(&mut self, answer: AckAnswer) -> String {
        self.last += 1;
        self.acks.insert(self.last, answer);
        self.last.to_string()
    }

    /// Waits for the answer to a message, across reconnects.
    pub(super) fn question(&mut self, correlation_id: String, answer: oneshot::Sender<Delivery>) {
        // Callers that have given up are forgotten when the next one asks.
        self.questions.retain(|_, waiting| !waiting.is_closed());
        self.questions.insert(correlation_id, answer);
    }

    /// Hands an answer to the caller that waits for it; returns a delivery that nobody waits for.
    pub(super) fn answer(&mut self, delivery: Delivery) -> Option<Delivery> {
        if self.questions.is_empty() || delivery.message_type() != MessageType::Response.as_str() {
            return Some(delivery);
        }
        match delivery.correlation_id().and_then(|id| self.questions.remove(id)) {
            Some(waiting) => waiting.send(delivery).err(),
            None => Some(delivery),
        }
    }

    /// Takes a request about dead letters or locks; returns its `ref` and the frame to write. `None` if the
    /// caller has given up, since the request may have waited long while the broker was away.
    pub(super) fn ask(&mut self, mut frame: ClientFrame, answer: AskAnswer) -> Option<(String, ClientFrame)> {
        if answer.is_closed() {
            return None;
        }
        self.last += 1;
        let (ClientFrame::Dead(Dead { reference, .. })
        | ClientFrame::Redrive(Chosen { reference, .. })
        | ClientFrame::Purge(Chosen { reference, .. })
        | ClientFrame::Acquire(AcquireLock { reference, .. })
        | ClientFrame::Release(ReleaseLock { reference, .. })) = &mut frame
        else {
            return None;
        };
        let number = self.last.to_string();
        *reference = Some(number.clone());
        self.asks.insert(self.last, answer);
        Some((number, frame))
    }

    pub(super) fn answered(&mut self, frame: ServerFrame) {
        let (ServerFrame::DeadLetters(DeadLetters { reference, .. })
        | ServerFrame::Redriven(Done { reference, .. })
        | ServerFrame::Purged(Done { reference, .. })
        | ServerFrame::Lock(Lock { reference, .. })
        | ServerFrame::Released(LockReleased { reference, .. })) = &frame
        else {
            return;
        };
        if let Some(answer) = number(reference.as_deref()).and_then(|n| self.asks.remove(&n)) {
            let _ = answer.send(Ok(frame));
        }
    }

    pub(super) fn sent(&mut self, reference: Option<&str>, id: Uuid) {
        if let Some((_, answer)) = number(reference).and_then(|n| self.sends.remove(&n)) {
            answer.send(Ok(id));
        }
    }

    pub(super) fn acked(&mut self, reference: &str) {
        if let Some(answer) = number(Some(reference)).and_then(|n| self.acks.remove(&n)) {
            let _ = answer.send(Ok(()));
        }
    }

    /// The broker takes this send no earlier than `until`; false if the send is not known here.
    pub(super) fn slow_down(&mut self, reference: Option<&str>, until: Instant) -> bool {
        let Some(n) = number(reference).filter(|n| self.sends.contains_key(n)) else { return false };
        self.held.insert(n);
        self.resume_at = self.resume_at.max(Some(until));
        true
    }

    /// Takes the waiting sends that may go now.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Send> {
        if self.held.is_empty() || self.resume_at.is_some_and(|at| at > now) {
            return Vec::new();
        }
        self.resume_at = None;
        let room = RESUMED_MAX.saturating_sub(self.sends.len() - self.held.len());
        let due: Vec<u64> = (0..room).map_while(|_| self.held.pop_first()).collect();
        due.iter().filter_map(|n| self.sends.get(n)).map(|(send, _)| (**send).clone()).collect()
    }

    /// When the next waiting sends may go, if that is a matter of time.
    pub(super) fn resume_at(&self) -> Option<Instant> {
        self.resume_at
    }

    /// A request was refused; true if it is known here.
    pub(super) fn refused(&mut self, reference: Option<&str>, error: &ClientError) -> bool {
        let Some(n) = number(reference) else { return false };
        let (send, ack, ask) = (self.sends.remove(&n), self.acks.remove(&n), self.asks.remove(&n));
        self.held.remove(&n);
        let known = send.is_some() || ack.is_some() || ask.is_some();
        if let Some(answer) = ask {
            let _ = answer.send(Err(error.clone()));
        }
        if let Some((_, answer)) = send {
            answer.send(Err(error.clone()));
        }
        if let Some(answer) = ack {
            let _ = answer.send(Err(error.clone()));
        }
        known
    }

    /// The connection was lost: sends that are safe to repeat stay, everybody else is told. Returns the frames
    /// to write again.
    pub(super) fn interrupted(&mut self) -> Vec<Send> {
        for (_, answer) in self.acks.drain() {
            let _ = answer.send(Err(ClientError::Interrupted));
        }
        for (_, answer) in self.asks.drain() {
            let _ = answer.send(Err(ClientError::Interrupted));
        }
        // A waiting send was refused or never written, so it is safe to repeat.
        let is_unsafe = |n: &u64, send: &Send| send.dedupe_key.is_none() && !self.held.contains(n);
        let unsafe_ones: Vec<u64> =
            self.sends.iter().filter(|(n, (s, _))| is_unsafe(n, s)).map(|(n, _)| *n).collect();
        for n in unsafe_ones {
            if let Some((_, answer)) = self.sends.remove(&n) {
                answer.send(Err(ClientError::Interrupted));
            }
        }
        let not_held = self.sends.iter().filter(|(n, _)| !self.held.contains(n));
        not_held.map(|(_, (send, _))| (**send).clone()).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sends.is_empty() && self.acks.is_empty() && self.asks.is_empty()
    }
}

fn number(reference: Option<&str>) -> Option<u64> {
    reference?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn send(pending: &mut Pending, n: usize) -> (Option<Send>, oneshot::Receiver<Result<Uuid, ClientError>>) {
        let line = format!(r#"{{"to":"b","type":"data","payload":{n}}}"#);
        let (answer, answered) = oneshot::channel();
        let answer = SendAnswer { answer, _share: None };
        (pending.send(Box::new(serde_json::from_str(&line).expect("a send")), answer), answered)
    }

    fn references(sends: &[Send]) -> Vec<usize> {
        sends.iter().map(|s| s.reference.as_deref().expect("a ref").parse().expect("a number")).collect()
    }

    #[test]
    fn what_was_refused_goes_again_before_what_came_after_it() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        let until = now + Duration::from_millis(50);
        let mut answers: Vec<_> = (1..=3).map(|n| send(&mut pending, n).1).collect();
        pending.sent(Some("1"), Uuid::nil());
        assert!(pending.slow_down(Some("2"), until) && pending.slow_down(Some("3"), now));
        assert!(!pending.slow_down(Some("1"), until) && !pending.slow_down(Some("x"), until));
        let (frame, answer) = send(&mut pending, 4);
        assert!(frame.is_none(), "it waits behind them");
        answers.push(answer);
        assert_eq!(pending.resume_at(), Some(until));
        assert!(pending.take_due(now).is_empty());
        assert_eq!(references(&pending.take_due(until)), [2, 3, 4]);
        assert!(pending.resume_at().is_none() && pending.take_due(until).is_empty());
        assert!(send(&mut pending, 5).0.is_some(), "nothing waits any more");
        assert!(answers[1..].iter_mut().all(|a| a.try_recv().is_err()), "nobody was told of a refusal");
    }

    #[test]
    fn those_that_were_held_are_under_way_in_a_bounded_number() {
        let (mut pending, now) = (Pending::default(), Instant::now());
        let answers: Vec<_> = (1..=1_000).map(|n| send(&mut pending, n).1).collect();
        for n in 1..=1_000 {
            assert!(pending.slow_down(Some(&n.to_string()), now));
        }
        assert_eq!(pending.take_due(now).len(), RESUMED_MAX);
        assert!(pending.take_due(now).is_empty(), "until one is answered");
        pending.sent(Some("1"), Uuid::nil());
        assert_eq!(references(&pending.take_due(now)), [RESUMED_MAX + 1]);
        // The connection is lost: sends under way are told, waiting ones go on.
        assert!(pending.interrupted().is_empty(), "none had a dedupe key");
        assert_eq!(pending.take_due(now).len(), RESUMED_MAX);
        assert_eq!(pending.sends.len(), 1_000 - RESUMED_MAX - 1);
        drop(answers);
    }
}
