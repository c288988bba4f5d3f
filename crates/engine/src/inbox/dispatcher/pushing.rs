//! From a lane to a session: which delivery goes next, and which session gets it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Dispatcher, REPLIES_MAX, SESSION_BYTES_MAX, SessionState};
use crate::inbox::event::{DeadCause, Effect, Outcome, Push};
use crate::inbox::in_flight::Flight;
use crate::inbox::owned::{Inbox, OLDEST_EVERY, Source};
use crate::inbox::{Entry, SessionId, Unfit};

/// The shortest time until a message that cannot be seen is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Two such messages are looked for in this distance at least.
const LOOKS_APART: Duration = Duration::from_millis(10);

impl SessionState {
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let (ordinary, ordinary_bytes) =
            (self.in_flight - self.replies, self.in_flight_bytes - self.replies_bytes);
        self.is_served()
            && ordinary < self.window
            && (ordinary == 0 || ordinary_bytes + bytes <= SESSION_BYTES_MAX)
    }

    /// Whether a reply to the session's own process has room beside the window. While other deliveries wait, at
    /// most [`OLDEST_EVERY`] - 1 replies are in flight for each delivery of the window.
    pub(super) fn has_room_for_reply(&self, bytes: usize, others_wait: bool) -> bool {
        let share = if others_wait && self.window > 0 {
            self.window.saturating_mul(OLDEST_EVERY as u32 - 1).min(REPLIES_MAX)
        } else {
            REPLIES_MAX
        };
        self.replies < share && (self.replies == 0 || self.replies_bytes + bytes <= SESSION_BYTES_MAX)
    }

    fn is_served(&self) -> bool {
        self.is_there() && !self.reserved && !self.has_apart
    }

    pub(super) fn is_there(&self) -> bool {
        !self.draining && !self.closing
    }
}

/// The outcome of a delivery without a body.
fn unfit(why: Option<&Unfit>) -> Outcome {
    match why {
        Some(Unfit::Unreadable(what)) => {
            Outcome::Dead { cause: DeadCause::Unreadable, reason: format!("unreadable: {what}") }
        }
        Some(Unfit::TooLarge(what)) => {
            Outcome::Dead { cause: DeadCause::PayloadTooLarge, reason: format!("payload_too_large: {what}") }
        }
        None | Some(Unfit::Left | Unfit::Unseen) => Outcome::Dead {
            cause: DeadCause::PayloadTooLarge,
            reason: "payload_too_large: the message does not fit into a line".to_owned(),
        },
    }
}

impl Dispatcher {
    /// Pushes the inbox's deliveries to sessions with room, in turn, and then starts a refill if one is due.
    pub(super) fn pump(&mut self, now: Instant, inbox: &Arc<str>) {
        self.note_room(now, inbox);
        self.push_replies(now, inbox);
        self.push_apart(now, inbox);
        while self.may_push_to(now, inbox) {
            let Some((source, bytes)) = self.owned(inbox).and_then(Inbox::next) else { break };
            let Some(session) = self.next_session(inbox, bytes) else { break };
            // `None`: the delivery waits for another one with its key.
            let Some(Some(entry)) = self.with_inbox(inbox, |state| state.pop(source)) else { continue };
            if self.must_be_apart(&entry) && self.keep_apart(inbox, &entry) {
                self.push_apart(now, inbox);
            } else {
                let session = self.preferred(inbox, &entry, session, bytes);
                self.give_out(now, inbox, session, source, &entry);
            }
        }
        self.note_room(now, inbox);
        self.read_on(inbox);
    }

    pub(super) fn owned(&self, inbox: &Arc<str>) -> Option<&Inbox> {
        self.inboxes.get(inbox).filter(|state| state.is_owned())
    }

    pub(super) fn give_out(
        &mut self,
        now: Instant,
        inbox: &Arc<str>,
        session: SessionId,
        source: Source,
        entry: &Entry,
    ) {
        let outcome = match &entry.body {
            _ if entry.expires_at.is_some_and(|at| at <= now) => Outcome::Expired,
            None if entry.unfit() == Some(&Unfit::Unseen) => Outcome::Unseen { delay: self.next_look(now) },
            None => unfit(entry.unfit()),
            Some(body) => return self.push(now, inbox, session, source, entry, body.clone()),
        };
        if !matches!(source, Source::Reply(_)) {
            self.with_inbox(inbox, |state| state.order.passed_over(entry));
        }
        self.settle(inbox, entry, outcome);
    }

    /// How long until a message that cannot be seen is looked for again. Many of them have their turns one after the other,
    /// so that they cost the database a bounded share of its time.
    fn next_look(&mut self, now: Instant) -> Duration {
        let after_others = self.last_look.map_or(now, |at| at + LOOKS_APART);
        let at = after_others.max(now + LOOK_AGAIN);
        self.last_look = Some(at);
        at - now
    }

    /// The next session in turn with room for so many bytes.
    pub(super) fn next_session(&mut self, inbox: &Arc<str>, bytes: usize) -> Option<SessionId> {
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

    /// The session of the process that a reply is for, if it has room; otherwise `next`.
    fn preferred(&self, inbox: &Arc<str>, entry: &Entry, next: SessionId, bytes: usize) -> SessionId {
        let (Some(instance), Some(state)) = (entry.instance(), self.inboxes.get(inbox)) else { return next };
        let is_its = |id: &&SessionId| {
            self.sessions
                .get(id)
                .is_some_and(|s| s.instance.as_deref() == Some(instance) && s.has_room(bytes))
        };
        state.sessions.iter().find(is_its).copied().unwrap_or(next)
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
        let waited = self.with_inbox(inbox, |state| {
            let waited = state.waited(now, source, entry);
            state.pushed(now, entry);
            if state.sessions.front() == Some(&session) {
                state.sessions.rotate_left(1);
            }
            waited
        });
        let (Some(to), Some(waited)) = (self.sessions.get_mut(&session), waited) else { return };
        // A reply that goes to the process it answers does not count towards the window.
        let is_reply =
            matches!(source, Source::Reply(_)) && to.instance.as_deref() == entry.instance().map(|i| &**i);
        let apart = source == Source::Apart;
        to.last_tag = to.last_tag.next();
        to.in_flight += 1;
        to.in_flight_bytes += body.len();
        to.replies += u32::from(is_reply);
        to.replies_bytes += if is_reply { body.len() } else { 0 };
        (to.reserved, to.has_apart) = (to.reserved && !apart, to.has_apart || apart);
        let flight = Flight {
            inbox: inbox.clone(),
            attempt: entry.attempt,
            message_id: entry.message_id,
            bytes: body.len(),
            pushed_at: now,
            deadline: now + self.rules.ack_deadline,
            is_reply,
            begun: false,
            apart,
        };
        self.in_flight.insert(session, to.last_tag, flight);
        let push = Push {
            tag: to.last_tag,
            attempt: entry.attempt,
            message_id: entry.message_id,
            deadline: self.rules.ack_deadline,
            age: (entry.age(now), now),
            waited,
            trace: entry.trace(),
            body,
        };
        self.effects.push(Effect::Push(session, push));
    }
}
