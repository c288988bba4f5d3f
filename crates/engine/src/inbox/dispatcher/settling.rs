//! From a request, a deadline or the end of a session to the outcome that is written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::{Dispatcher, PendingAnswer};
use crate::inbox::event::{DeadCause, Effect, FailCause, Outcome, Request, Settle};
use crate::inbox::in_flight::Flight;
use crate::inbox::owned::Inbox;
use crate::inbox::{Entry, SessionId, Tag};
use postbell_client::protocol::ErrorCode;

impl Dispatcher {
    pub(super) fn request(&mut self, now: Instant, id: SessionId, request: Request) {
        match request {
            Request::Ack { tags, reference } => self.ack(now, id, tags, reference),
            Request::Release { tag, delay } => {
                if let Some(flight) = self.take(id, tag) {
                    self.settle_flight(&flight, Outcome::Release { delay }, None);
                }
            }
            Request::Fail { tag, delay, reason } => {
                if let Some(flight) = self.take(id, tag) {
                    self.fail(&flight, FailCause::Nack, reason, delay);
                }
            }
            Request::Dead { tag, reason } => {
                if let Some(flight) = self.take(id, tag) {
                    let cause = DeadCause::Rejected;
                    self.settle_flight(&flight, Outcome::Dead { cause, reason }, None);
                }
            }
            Request::Extend { tag, by } => {
                let hold = self.sessions.get(&id).map_or(self.rules.ack_deadline, |session| session.hold);
                if !self.in_flight.extend(id, tag, now + by, hold) {
                    self.unknown_tag(id, &[tag], None);
                }
            }
            Request::Begun { tags } => {
                // A tag that is not in flight any more was settled or came too late: no answer is needed.
                tags.into_iter().for_each(|tag| self.in_flight.begin(id, tag));
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.says_begun = true;
                }
            }
            Request::Window(window) => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.window = window;
                    self.touched.push(session.inbox.clone());
                }
            }
        }
    }

    fn ack(&mut self, now: Instant, id: SessionId, tags: Vec<Tag>, reference: Option<String>) {
        let mut known = Vec::with_capacity(tags.len());
        let mut unknown = Vec::new();
        for tag in tags {
            match self.in_flight.take(id, tag) {
                Some(flight) => known.push(flight),
                None => unknown.push(tag),
            }
        }
        if !unknown.is_empty() {
            self.unknown_tag(id, &unknown, reference.clone());
        }
        let answer = match reference {
            Some(reference) if !known.is_empty() => {
                self.last_answer += 1;
                let answer = PendingAnswer { session: id, reference, left: known.len() };
                self.answers.insert(self.last_answer, answer);
                Some(self.last_answer)
            }
            _ => None,
        };
        for flight in known {
            self.session_done_with(id, &flight);
            let handled = now.saturating_duration_since(flight.pushed_at);
            self.settle_flight(&flight, Outcome::Ack { handled }, answer);
        }
    }

    /// The session no longer has this delivery: its window has room again, and a session that is leaving may be done.
    pub(super) fn session_done_with(&mut self, id: SessionId, flight: &Flight) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.in_flight -= 1;
            session.in_flight_bytes -= flight.bytes;
            if flight.is_reply {
                session.replies -= 1;
                session.replies_bytes -= flight.bytes;
            }
            session.has_apart &= !flight.apart;
        }
        self.close_if_drained(id);
        self.touched.push(flight.inbox.clone());
    }

    fn take(&mut self, id: SessionId, tag: Tag) -> Option<Flight> {
        let flight = self.in_flight.take(id, tag);
        match &flight {
            Some(flight) => self.session_done_with(id, flight),
            None => self.unknown_tag(id, &[tag], None),
        }
        flight
    }

    fn unknown_tag(&mut self, id: SessionId, tags: &[Tag], reference: Option<String>) {
        let first = tags[0];
        let others = match tags.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        let sentence = format!(
            "tag {first}{others} is not in flight in this session: settled before, or its deadline passed"
        );
        self.refuse(id, ErrorCode::UnknownTag, sentence, reference);
    }

    pub(super) fn fail_overdue(&mut self, now: Instant) {
        while let Some((id, _, flight)) = self.in_flight.take_overdue(now) {
            self.session_done_with(id, &flight);
            let reason = "the deadline passed without an ack".to_owned();
            self.fail(&flight, FailCause::Deadline, reason, None);
        }
    }

    /// Ends a failed attempt: another try after a delay, or dead if this attempt was the last.
    pub(super) fn fail(
        &mut self,
        flight: &Flight,
        cause: FailCause,
        reason: String,
        delay: Option<Duration>,
    ) {
        let failed = flight.attempt.number();
        let outcome = if self.rules.retry.is_exhausted(failed) {
            let reason = format!("{reason} (attempt {failed}, the last)");
            Outcome::Dead { cause: DeadCause::MaxAttempts, reason }
        } else {
            let draw = self.rng.random::<f64>();
            let delay = delay.unwrap_or_else(|| self.rules.retry.delay(failed, draw));
            Outcome::Fail { delay, cause, reason }
        };
        self.settle_flight(flight, outcome, None);
    }

    pub(super) fn settle_flight(&mut self, flight: &Flight, mut outcome: Outcome, answer: Option<u64>) {
        let attempt = flight.attempt;
        let again = outcome.delay();
        let is_ordered = self.with_inbox(&flight.inbox, |inbox| {
            inbox.landed(attempt);
            inbox.order.settling(attempt, again)
        });
        if is_ordered == Some(true) {
            outcome.go_at_once();
        }
        self.write(Settle { inbox: flight.inbox.clone(), attempt, outcome, answer });
    }

    /// Writes the outcome of a delivery that no session had.
    pub(super) fn settle(&mut self, inbox: &Arc<str>, entry: &Entry, outcome: Outcome) {
        self.write(Settle { inbox: inbox.clone(), attempt: entry.attempt, outcome, answer: None });
    }

    fn write(&mut self, settle: Settle) {
        if let Some(inbox) = self.inboxes.get_mut(&settle.inbox) {
            inbox.settling(settle.attempt);
        }
        self.shares.add();
        self.effects.push(Effect::Settle(settle));
    }

    pub(super) fn settled(&mut self, now: Instant, settled: Vec<Settle>) {
        for settle in settled {
            self.shares.remove();
            let attempt = settle.attempt;
            if let Some(inbox) = self.inboxes.get_mut(&settle.inbox) {
                let relaned = matches!(settle.outcome, Outcome::Relane { .. }) && inbox.relaned();
                if inbox.settled(attempt) || relaned {
                    self.touched.push(settle.inbox.clone());
                }
                if inbox.order.settled(now, attempt) {
                    self.returning.push(settle.inbox.clone());
                    self.effects.push(Effect::WakeTail);
                }
            }
            self.give_back_if_left(&settle.inbox);
            if let Some(id) = settle.answer {
                self.answer(id);
            }
        }
        let inboxes = &self.inboxes;
        let of_inbox = |inbox: &str| inboxes.get(inbox).map_or(0, Inbox::outcomes);
        self.touched.extend(self.shares.let_go(of_inbox));
    }

    fn answer(&mut self, id: u64) {
        let Some(answer) = self.answers.get_mut(&id) else { return };
        answer.left -= 1;
        if answer.left == 0
            && let Some(PendingAnswer { session, reference, .. }) = self.answers.remove(&id)
        {
            self.effects.push(Effect::Acked(session, reference));
        }
    }
}
