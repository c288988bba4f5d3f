//! From a lane to a session: what comes next, and who gets it.

use std::sync::Arc;
use std::time::Instant;

use super::{Dispatcher, REPLIES_MAX, SESSION_BYTES_MAX, Session};
use crate::inbox::event::{DeadCause, Effect, Outcome, Push};
use crate::inbox::in_flight::Flight;
use crate::inbox::owned::{Inbox, Source};
use crate::inbox::{Entry, SessionId, Unfit};
use crate::message::REPLIES;

impl Session {
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.is_served()
            && self.in_flight < self.window
            && (self.in_flight == 0 || self.in_flight_bytes + bytes <= SESSION_BYTES_MAX)
    }

    /// Beside the window, for replies to its own process.
    fn has_room_for_reply(&self, bytes: usize) -> bool {
        self.in_flight < self.window.saturating_add(REPLIES_MAX)
            && (self.in_flight == 0 || self.in_flight_bytes + bytes <= 2 * SESSION_BYTES_MAX)
    }

    fn is_served(&self) -> bool {
        !self.draining && !self.closing
    }
}

/// What becomes of a delivery without a body.
fn unfit(why: Option<&Unfit>) -> Outcome {
    match why {
        Some(Unfit::Unreadable(what)) => {
            Outcome::Dead { cause: DeadCause::Unreadable, reason: format!("unreadable: {what}") }
        }
        Some(Unfit::TooLarge(what)) => {
            Outcome::Dead { cause: DeadCause::PayloadTooLarge, reason: format!("payload_too_large: {what}") }
        }
        None | Some(Unfit::Left) => Outcome::Dead {
            cause: DeadCause::PayloadTooLarge,
            reason: "payload_too_large: the message does not fit into a line".to_owned(),
        },
    }
}

impl Dispatcher {
    /// Pushes what an inbox holds to the sessions that have room, each in its turn, then reads on.
    pub(super) fn pump(&mut self, now: Instant, inbox: &Arc<str>) {
        self.note_room(now, inbox);
        self.push_replies(now, inbox);
        while self.may_push(now) {
            let Some((source, bytes)) = self.owned(inbox).and_then(Inbox::next) else { break };
            let Some(session) = self.next_session(inbox, bytes) else { break };
            // What waits for another with its key is not given out now.
            if let Some(Some(entry)) = self.with_inbox(inbox, |state| state.pop(source)) {
                self.give_out(now, inbox, session, source, &entry);
            }
        }
        self.note_room(now, inbox);
        self.read_on(inbox);
    }

    fn push_replies(&mut self, now: Instant, inbox: &Arc<str>) {
        while self.may_push(now) {
            let Some((instance, bytes)) = self.owned(inbox).and_then(Inbox::next_reply) else { break };
            let Some(session) = self.session_for_reply(inbox, instance.as_deref(), bytes) else { break };
            let source = Source::Lane(REPLIES);
            let Some(Some(entry)) = self.with_inbox(inbox, |state| state.pop(source)) else { break };
            self.give_out(now, inbox, session, source, &entry);
        }
    }

    fn owned(&self, inbox: &Arc<str>) -> Option<&Inbox> {
        self.inboxes.get(inbox).filter(|state| state.is_owned())
    }

    fn give_out(
        &mut self,
        now: Instant,
        inbox: &Arc<str>,
        session: SessionId,
        source: Source,
        entry: &Entry,
    ) {
        let outcome = match &entry.body {
            _ if entry.expires_at.is_some_and(|at| at <= now) => Outcome::Expired,
            None => unfit(entry.unfit()),
            Some(body) => return self.push(now, inbox, session, source, entry, body.clone()),
        };
        self.with_inbox(inbox, |state| state.order.passed_over(entry));
        self.settle(inbox, entry, outcome);
    }

    /// The next session with room for so many bytes, in turn.
    fn next_session(&mut self, inbox: &Arc<str>, bytes: usize) -> Option<SessionId> {
        let state = self.inboxes.get_mut(inbox)?;
        for _ in 0..state.sessions.len() {
            let session = *state.sessions.front()?;
            if self.sessions.get(&session).is_some_and(|s| s.has_room(bytes)) {
                return Some(session);
            }
            state.sessions.rotate_left(1);
        }
        None
    }

    /// The process that asked, if it is there, whatever its window; else any.
    fn session_for_reply(
        &mut self,
        inbox: &Arc<str>,
        instance: Option<&str>,
        bytes: usize,
    ) -> Option<SessionId> {
        let ids = &self.inboxes.get(inbox)?.sessions;
        let asker = ids.iter().find_map(|id| {
            let session = self.sessions.get(id)?;
            (session.is_served() && session.instance.as_deref() == instance).then_some((*id, session))
        });
        match asker {
            Some((id, session)) => session.has_room_for_reply(bytes).then_some(id),
            None => self.next_session(inbox, bytes),
        }
    }

    fn push(
        &mut self,
        now: Instant,
        inbox: &Arc<str>,
        session: SessionId,
        source: Source,
        entry: &Entry,
        body: bytes::Bytes,
    ) {
        let (Some(to), Some(state)) = (self.sessions.get_mut(&session), self.inboxes.get_mut(inbox)) else {
            return;
        };
        to.last_tag += 1;
        to.in_flight += 1;
        to.in_flight_bytes += body.len();
        let waited = state.waited(now, source, entry);
        state.pushed(now, entry);
        if state.sessions.front() == Some(&session) {
            state.sessions.rotate_left(1);
        }
        let flight = Flight {
            inbox: inbox.clone(),
            delivery_id: entry.delivery_id,
            attempt: entry.attempt,
            message_id: entry.message_id,
            bytes: body.len(),
            pushed_at: now,
            deadline: now + self.rules.ack_deadline,
        };
        self.in_flight.insert(session, to.last_tag, flight);
        let push = Push {
            tag: to.last_tag,
            delivery_id: entry.delivery_id,
            message_id: entry.message_id,
            attempt: entry.attempt + 1,
            deadline: self.rules.ack_deadline,
            age: (entry.age(now), now),
            waited,
            trace: entry.trace(),
            body,
        };
        self.effects.push(Effect::Push(session, push));
    }
}
