//! Whose fault the end of a session is.
//!
//! An agent that handles one after the other had the oldest in hand. One that handles several says what it has begun with;
//! then it was one of those. The others are given back, uncounted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Dispatcher, Session};
use crate::inbox::event::{FailCause, Outcome};
use crate::inbox::in_flight::Flight;
use crate::inbox::owned::{Inbox, Source};
use crate::inbox::{Entry, SessionId, Tag};

/// The reason of what was in company begins so: by these words its next attempts know it (sql/queries/tail.sql).
pub const IN_COMPANY: &str = "the agent disconnected while it handled this and others";

impl Dispatcher {
    /// What was written to the agent may have been handled by half, so a message that kills its agent each time ends in the
    /// dead letters. What was not written, or not begun with, is given back.
    pub(super) fn blame(
        &mut self,
        session: &Session,
        flights: Vec<(Tag, Flight)>,
        written: Tag,
        by_broker: bool,
    ) {
        let in_hand: Vec<Tag> = if by_broker {
            Vec::new()
        } else if session.says_begun {
            flights.iter().filter(|(_, flight)| flight.begun).map(|(tag, _)| *tag).collect()
        } else {
            flights.first().map(|(tag, _)| *tag).filter(|tag| *tag <= written).into_iter().collect()
        };
        for (tag, flight) in flights {
            match in_hand[..] {
                _ if !in_hand.contains(&tag) => {
                    self.settle_flight(&flight, Outcome::Release { delay: Duration::ZERO }, None);
                }
                [_] => {
                    let reason = "the agent disconnected before it acknowledged".to_owned();
                    self.fail(&flight, FailCause::Disconnect, reason, Some(Duration::ZERO));
                }
                _ => self.blame_in_company(&flight, in_hand.len() - 1),
            }
        }
    }

    /// It was one of several: none is dead by that.
    fn blame_in_company(&mut self, flight: &Flight, others: usize) {
        let reason = format!("{IN_COMPANY} ({others})");
        if self.rules.retry.is_exhausted(flight.attempt + 1) {
            self.settle_flight(flight, Outcome::Spare { reason }, None);
        } else {
            self.fail(flight, FailCause::Disconnect, reason, Some(Duration::ZERO));
        }
    }

    /// The last attempt at what was in company.
    pub(super) fn must_be_alone(&self, entry: &Entry) -> bool {
        entry.was_in_company() && self.rules.retry.is_exhausted(entry.attempt + 1)
    }

    /// Sets it aside; false if there are too many.
    pub(super) fn keep_for_later(&mut self, inbox: &Arc<str>, entry: &Entry) -> bool {
        self.with_inbox(inbox, |state| state.set_aside(entry)) == Some(true)
    }

    /// Gives what was set aside to a session that has nothing else, and has one get nothing more until it has nothing.
    pub(super) fn push_aside(&mut self, now: Instant, inbox: &Arc<str>) {
        while self.may_push(now) {
            if self.owned(inbox).and_then(Inbox::first_aside).is_none() {
                break;
            }
            let Some(session) = self.reserve(inbox) else { break };
            if self.sessions.get(&session).is_none_or(|s| s.in_flight > 0) {
                break;
            }
            let Some(Some(entry)) = self.with_inbox(inbox, |state| state.pop(Source::Aside)) else { break };
            self.give_out(now, inbox, session, Source::Aside, &entry);
        }
        self.unreserve(inbox);
    }

    /// The session that takes nothing more for the sake of what was set aside; the one that has least.
    fn reserve(&mut self, inbox: &Arc<str>) -> Option<SessionId> {
        let ids = &self.inboxes.get(inbox)?.sessions;
        let could = |s: &Session| s.is_there() && !s.alone && s.window > 0;
        let here = || ids.iter().filter_map(|id| Some((*id, self.sessions.get(id).filter(|s| could(s))?)));
        let reserved = here().find(|(_, s)| s.reserved);
        let (id, _) = reserved.or_else(|| here().min_by_key(|(_, s)| s.in_flight))?;
        self.sessions.get_mut(&id)?.reserved = true;
        Some(id)
    }

    /// Nothing is aside any more.
    fn unreserve(&mut self, inbox: &Arc<str>) {
        let Some(state) = self.inboxes.get(inbox) else { return };
        if state.first_aside().is_some() {
            return;
        }
        for id in &state.sessions {
            if let Some(session) = self.sessions.get_mut(id) {
                session.reserved = false;
            }
        }
    }
}
