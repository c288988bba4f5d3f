//! Decides which deliveries are blamed for the end of a session.
//!
//! An agent that handles one delivery after the other had the oldest in hand. An agent that handles several
//! names them by `begun`, and then one of those is to blame. All others are given back, uncounted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Dispatcher, SessionState};
use crate::inbox::event::{FailCause, Outcome};
use crate::inbox::in_flight::Flight;
use crate::inbox::owned::{Inbox, Source};
use crate::inbox::{Entry, SessionId, Tag};

/// The start of the reason for a delivery that failed in company; sql/queries/tail.sql finds such deliveries by
/// these words.
pub const IN_COMPANY: &str = "the agent disconnected while it handled this and others";

impl Dispatcher {
    /// Fails the deliveries in hand, so that a message which kills its agent each time ends in the dead
    /// letters. Deliveries that were not written to the socket, or not begun with, are given back.
    pub(super) fn blame(
        &mut self,
        session: &SessionState,
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

    /// Fails one of several deliveries in hand; this alone never makes a dead letter.
    fn blame_in_company(&mut self, flight: &Flight, others: usize) {
        let reason = format!("{IN_COMPANY} ({others})");
        if self.rules.retry.is_exhausted(flight.attempt.number()) {
            self.settle_flight(flight, Outcome::Spare { reason }, None);
        } else {
            self.fail(flight, FailCause::Disconnect, reason, Some(Duration::ZERO));
        }
    }

    /// Whether this is the last attempt at a delivery that failed in company.
    pub(super) fn must_be_apart(&self, entry: &Entry) -> bool {
        entry.was_in_company() && self.rules.retry.is_exhausted(entry.attempt.number())
    }

    /// Keeps the delivery to be pushed apart; false if there is no place.
    pub(super) fn keep_apart(&mut self, inbox: &Arc<str>, entry: &Entry) -> bool {
        self.with_inbox(inbox, |state| state.keep_apart(entry)) == Some(true)
    }

    /// Pushes the deliveries that wait to be apart, each to a session without any other. Until there is such a
    /// session, the least busy one is reserved and gets nothing more.
    pub(super) fn push_apart(&mut self, now: Instant, inbox: &Arc<str>) {
        while self.may_push_to(now, inbox) {
            if self.owned(inbox).and_then(Inbox::first_apart).is_none() {
                break;
            }
            let Some(session) = self.reserve(inbox) else { break };
            if self.sessions.get(&session).is_none_or(|s| s.in_flight > 0) {
                break;
            }
            let Some(Some(entry)) = self.with_inbox(inbox, |state| state.pop(Source::Apart)) else { break };
            self.give_out(now, inbox, session, Source::Apart, &entry);
        }
        self.unreserve(inbox);
    }

    /// The session that is reserved for a delivery apart; if there is none yet, reserves the one with the least
    /// in flight.
    fn reserve(&mut self, inbox: &Arc<str>) -> Option<SessionId> {
        let ids = &self.inboxes.get(inbox)?.sessions;
        let could = |s: &SessionState| s.is_there() && !s.has_apart && s.window > 0;
        let here = || ids.iter().filter_map(|id| Some((*id, self.sessions.get(id).filter(|s| could(s))?)));
        let reserved = here().find(|(_, s)| s.reserved);
        let (id, _) = reserved.or_else(|| here().min_by_key(|(_, s)| s.in_flight))?;
        self.sessions.get_mut(&id)?.reserved = true;
        Some(id)
    }

    /// Ends the reservation if no delivery waits to be apart any more.
    fn unreserve(&mut self, inbox: &Arc<str>) {
        let Some(state) = self.inboxes.get(inbox) else { return };
        if state.first_apart().is_some() {
            return;
        }
        for id in &state.sessions {
            if let Some(session) = self.sessions.get_mut(id) {
                session.reserved = false;
            }
        }
    }
}
