//! Sessions that come and go, and the leases of their inboxes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Dispatcher, Session};
use crate::inbox::SessionId;
use crate::inbox::event::{Effect, FailCause, Outcome};
use crate::inbox::in_flight::Flight;
use crate::inbox::owned::{Inbox, Ownership};
use crate::protocol::ErrorCode;

impl Dispatcher {
    pub(super) fn join(
        &mut self,
        now: Instant,
        id: SessionId,
        inbox: Arc<str>,
        instance: Option<String>,
        window: u32,
    ) {
        if instance.is_some() {
            self.take_over(&inbox, &instance);
        }
        let session = Session {
            inbox: inbox.clone(),
            instance,
            window,
            in_flight: 0,
            in_flight_bytes: 0,
            last_tag: 0,
            closing: false,
        };
        self.sessions.insert(id, session);
        let state = self.inboxes.entry(inbox.clone()).or_insert_with(|| {
            self.effects.push(Effect::Acquire(inbox.clone()));
            Inbox::new()
        });
        // First in turn: it has nothing yet.
        state.sessions.push_front(id);
        if let Ownership::Leaving { epoch } = state.ownership {
            // Its lanes were not kept up while nobody was there.
            state.forget(Ownership::Loading { since: now, epoch });
            self.loading.push(inbox.clone());
            self.effects.push(Effect::WakeTail);
        }
        self.touched.push(inbox);
    }

    /// The newest session of an agent and instance goes on; the others are told to end, and leave by themselves.
    fn take_over(&mut self, inbox: &Arc<str>, instance: &Option<String>) {
        let Some(state) = self.inboxes.get(inbox) else { return };
        for id in &state.sessions {
            let Some(old) = self.sessions.get_mut(id) else { continue };
            if old.instance == *instance && !old.closing {
                old.closing = true;
                self.effects.push(Effect::Close(*id, ErrorCode::TakenOver));
            }
        }
    }

    /// What was written to the agent may have been handled by half: it counts as a failed attempt, so that a
    /// message that kills its agent each time ends in the dead letters. What was not written is given back.
    pub(super) fn leave(&mut self, id: SessionId, written: u64, by_broker: bool) {
        let Some(session) = self.sessions.remove(&id) else { return };
        for (tag, flight) in self.in_flight.take_session(id) {
            if tag > written || by_broker {
                self.settle_flight(&flight, Outcome::Release { delay: Duration::ZERO }, None);
            } else {
                let reason = "the agent disconnected before it acknowledged".to_owned();
                self.fail(&flight, FailCause::Disconnect, reason, Some(Duration::ZERO));
            }
        }
        if let Some(state) = self.inboxes.get_mut(&session.inbox) {
            state.sessions.retain(|s| *s != id);
        }
        self.give_back_if_left(&session.inbox);
        self.touched.push(session.inbox);
    }

    /// The last session left and every outcome is in the table: the next owner reads the truth.
    pub(super) fn give_back_if_left(&mut self, inbox: &Arc<str>) {
        let Some(state) = self.inboxes.get_mut(inbox) else { return };
        if !state.sessions.is_empty() {
            return;
        }
        if let Ownership::Loading { epoch, .. } | Ownership::Owned { epoch } = state.ownership {
            let before = state.bytes();
            state.forget(Ownership::Leaving { epoch });
            self.lanes_bytes -= before;
        }
        if matches!(state.ownership, Ownership::Leaving { .. }) && state.is_quiet() {
            state.ownership = Ownership::Releasing;
            self.effects.push(Effect::Release(inbox.clone()));
        }
    }

    pub(super) fn acquired(&mut self, now: Instant, inbox: Arc<str>, epoch: i64) {
        let Some(state) = self.inboxes.get_mut(&inbox) else {
            // It was refused, everybody left, and then it was had after all.
            self.effects.push(Effect::Release(inbox));
            return;
        };
        if !std::mem::take(&mut state.asking) {
            return;
        }
        if state.ask_again {
            return self.ask(inbox);
        }
        match state.ownership {
            Ownership::Releasing => {}
            // Asked again after the lease had lapsed: nobody had it in between if the epoch is the same.
            Ownership::Loading { epoch: e, .. }
            | Ownership::Owned { epoch: e }
            | Ownership::Leaving { epoch: e }
                if e == epoch => {}
            _ => {
                self.with_inbox(&inbox, |state| state.forget(Ownership::Loading { since: now, epoch }));
                self.loading.push(inbox.clone());
                self.effects.push(Effect::WakeTail);
            }
        }
        self.give_back_if_left(&inbox);
        self.touched.push(inbox);
    }

    pub(super) fn not_acquired(&mut self, inbox: Arc<str>) {
        let Some(state) = self.inboxes.get_mut(&inbox) else { return };
        if !std::mem::take(&mut state.asking) {
            return;
        }
        if state.sessions.is_empty() && state.is_quiet() {
            self.remove(&inbox);
            return;
        }
        self.with_inbox(&inbox, |state| state.forget(Ownership::Acquiring));
        self.ask(inbox);
    }

    /// Asks for an inbox's lease; there is one question at a time.
    fn ask(&mut self, inbox: Arc<str>) {
        if let Some(state) = self.inboxes.get_mut(&inbox) {
            state.ask_again = std::mem::replace(&mut state.asking, true);
            if !state.ask_again {
                self.effects.push(Effect::Acquire(inbox));
            }
        }
    }

    pub(super) fn released(&mut self, inbox: Arc<str>) {
        let Some(state) = self.inboxes.get(&inbox) else { return };
        if state.ownership != Ownership::Releasing {
            return;
        }
        if state.sessions.is_empty() {
            self.remove(&inbox);
        } else {
            self.with_inbox(&inbox, |state| state.forget(Ownership::Acquiring));
            self.ask(inbox);
        }
    }

    fn remove(&mut self, inbox: &Arc<str>) {
        if let Some(state) = self.inboxes.remove(inbox) {
            self.lanes_bytes -= state.bytes();
        }
    }

    pub(super) fn lease_until(&mut self, now: Instant, until: Instant) {
        let could = self.may_push(now);
        self.lease_until = Some(until);
        if !could {
            self.touched.extend(self.inboxes.keys().cloned());
        }
    }

    /// Every inbox is in doubt, also one whose lease was asked for: the answer may be from before.
    pub(super) fn lease_lapsed(&mut self) {
        let doubted = self.inboxes.iter().filter(|(_, state)| state.ownership != Ownership::Releasing);
        for inbox in doubted.map(|(inbox, _)| inbox.clone()).collect::<Vec<_>>() {
            self.ask(inbox);
        }
    }

    pub(super) fn session_done_with(&mut self, id: SessionId, flight: &Flight) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.in_flight -= 1;
            session.in_flight_bytes -= flight.bytes;
        }
        self.touched.push(flight.inbox.clone());
    }
}
