//! Sessions that join and leave, and the leases of their inboxes.

use std::sync::Arc;
use std::time::Instant;

use super::{Dispatcher, SessionState};
use crate::inbox::event::{Effect, Owner, Trouble};
use crate::inbox::owned::{Inbox, Ownership, Question};
use crate::inbox::{Epoch, SessionId, Tag};
use postbell_client::protocol::ErrorCode;

impl Dispatcher {
    pub(super) fn join(&mut self, now: Instant, id: SessionId, session: SessionState) {
        if session.link && !self.may_serve_link(&session.inbox) {
            // The link's broker asks the database for the owner; otherwise two brokers could send the session to each other.
            self.effects.push(Effect::Close(id, ErrorCode::NotOwner));
            return;
        }
        if session.instance.is_some() {
            // A hello may be late: its broker has linked anew meanwhile, or its agent has gone to another broker.
            if self.has_newer(&session) {
                self.effects.push(Effect::Close(id, ErrorCode::TakenOver));
                return;
            }
            self.take_over(&session.inbox, &session.instance);
        }
        let inbox = session.inbox.clone();
        self.sessions.insert(id, session);
        self.enter(now, id, inbox, None);
    }

    fn may_serve_link(&self, inbox: &Arc<str>) -> bool {
        let ownership = self.inboxes.get(inbox).map(|state| state.ownership);
        matches!(ownership, Some(Ownership::Loading { .. } | Ownership::Owned { .. }))
    }

    /// The session lost its owner or was turned away. The first broker that asks for the inbox gets it.
    pub(super) fn rejoin(&mut self, now: Instant, id: SessionId, above: Tag, trouble: Option<Trouble>) {
        let Some(session) = self.sessions.get(&id) else { return };
        let inbox = session.inbox.clone();
        let superseded = session.instance.is_some() && self.has_another(session);
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.last_tag = session.last_tag.max(above);
        if superseded {
            Self::close(&mut self.effects, id, session, ErrorCode::TakenOver);
            return;
        }
        self.enter(now, id, inbox, trouble);
    }

    /// Whether this agent and instance has a session here that is certainly newer: of two ranks, the higher.
    fn has_newer(&self, than: &SessionState) -> bool {
        self.others(than).any(|s| s.rank.zip(than.rank).is_some_and(|(theirs, its)| theirs > its))
    }

    /// Whether this agent and instance has a session here that is newer, or cannot be compared because a rank is missing.
    fn has_another(&self, than: &SessionState) -> bool {
        self.others(than).any(|s| s.rank.zip(than.rank).is_none_or(|(theirs, its)| theirs > its))
    }

    /// The other sessions of this agent and instance here that were not told to end.
    fn others<'a>(&'a self, session: &'a SessionState) -> impl Iterator<Item = &'a SessionState> {
        let ids = self.inboxes.get(&session.inbox).into_iter().flat_map(|state| &state.sessions);
        ids.filter_map(|id| self.sessions.get(id)).filter(|s| s.instance == session.instance && !s.closing)
    }

    /// Puts a session on its inbox, and asks for the lease if this broker does not have it.
    fn enter(&mut self, now: Instant, id: SessionId, inbox: Arc<str>, trouble: Option<Trouble>) {
        let state = self.inboxes.entry(inbox.clone()).or_insert_with(|| {
            self.effects.push(Effect::Acquire(inbox.clone(), trouble));
            Inbox::new()
        });
        // First in turn, since it has nothing in flight yet.
        state.sessions.push_front(id);
        match state.ownership {
            Ownership::Leaving { epoch } => {
                // The lanes were not kept up meanwhile, and rows that an ordering key waits for may have come.
                self.with_inbox(&inbox, |state| state.forget(Ownership::Loading { since: now, epoch }));
                self.loading.push(inbox.clone());
                self.effects.push(Effect::WakeTail);
            }
            Ownership::Elsewhere => {
                state.turn_to(Ownership::Acquiring);
                self.ask(inbox.clone(), trouble);
            }
            _ => {}
        }
        self.touched.push(inbox);
    }

    /// The session finishes what is in flight. A link with nothing in flight is closed, so that its broker can have the
    /// inbox; an agent says goodbye itself.
    pub(super) fn drain(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.draining = true;
            self.close_if_drained(id);
        }
    }

    pub(super) fn close_if_drained(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && session.link
            && session.draining
            && session.in_flight == 0
        {
            Self::close(&mut self.effects, id, session, ErrorCode::Stopping);
        }
    }

    /// Tells the session to end, once; the session then leaves by itself.
    fn close(effects: &mut Vec<Effect>, id: SessionId, session: &mut SessionState, code: ErrorCode) {
        if !std::mem::replace(&mut session.closing, true) {
            effects.push(Effect::Close(id, code));
        }
    }

    /// Gives inboxes up to the brokers that want them, unless this broker has agents of its own on them.
    pub(super) fn wanted(&mut self, inboxes: Vec<Arc<str>>) {
        for inbox in inboxes {
            let Some(state) = self.inboxes.get(&inbox) else { continue };
            let is_link = |id: &SessionId| self.sessions.get(id).is_some_and(|s| s.link);
            if state.sessions.iter().all(is_link) {
                let links = state.sessions.iter().copied().collect();
                self.turn_away(links);
            }
        }
    }

    /// Ends links, whose brokers then ask for the inbox anew.
    fn turn_away(&mut self, links: Vec<SessionId>) {
        for id in links {
            if let Some(session) = self.sessions.get_mut(&id) {
                Self::close(&mut self.effects, id, session, ErrorCode::NotOwner);
            }
        }
    }

    /// Tells all older sessions of an agent and instance to end.
    fn take_over(&mut self, inbox: &Arc<str>, instance: &Option<String>) {
        let Some(state) = self.inboxes.get(inbox) else { return };
        for id in &state.sessions {
            let Some(old) = self.sessions.get_mut(id) else { continue };
            if old.instance == *instance {
                Self::close(&mut self.effects, *id, old, ErrorCode::TakenOver);
            }
        }
    }

    /// A session ended, by itself or told by the broker.
    pub(super) fn leave(&mut self, id: SessionId, written: Tag, by_broker: bool) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let flights = self.in_flight.take_session(id);
        self.blame(&session, flights, written, by_broker);
        if let Some(state) = self.inboxes.get_mut(&session.inbox) {
            state.sessions.retain(|s| *s != id);
        }
        self.give_back_if_left(&session.inbox);
        self.touched.push(session.inbox);
    }

    /// Gives the inbox back once its last session has left and every outcome is in the table, for the next owner to read.
    pub(super) fn give_back_if_left(&mut self, inbox: &Arc<str>) {
        let Some(state) = self.inboxes.get_mut(inbox) else { return };
        if !state.sessions.is_empty() {
            return;
        }
        if let Ownership::Loading { epoch, .. } | Ownership::Owned { epoch } = state.ownership {
            self.with_inbox(inbox, |state| state.forget(Ownership::Leaving { epoch }));
        }
        let Some(state) = self.inboxes.get_mut(inbox) else { return };
        if matches!(state.ownership, Ownership::Leaving { .. }) && state.is_quiet() {
            state.turn_to(Ownership::GivingBack);
            self.effects.push(Effect::GiveBack(inbox.clone()));
        } else if state.ownership == Ownership::Elsewhere && state.is_quiet() {
            self.remove(inbox);
        }
    }

    pub(super) fn acquired(&mut self, now: Instant, inbox: Arc<str>, epoch: Epoch) {
        let Some(state) = self.inboxes.get_mut(&inbox) else {
            // The lease was refused, every session left, and then the lease was granted after all.
            self.effects.push(Effect::GiveBack(inbox));
            return;
        };
        match std::mem::replace(&mut state.question, Question::None) {
            Question::None => return,
            Question::Outdated => return self.ask(inbox, None),
            Question::Open => {}
        }
        match state.ownership {
            Ownership::GivingBack => {}
            // Asked again after the lease had lapsed: the same epoch means that no other broker had the inbox in between.
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

    pub(super) fn not_acquired(&mut self, inbox: Arc<str>, owner: Option<Owner>) {
        let Some(state) = self.inboxes.get_mut(&inbox) else { return };
        if std::mem::replace(&mut state.question, Question::None) == Question::None {
            return;
        }
        if state.sessions.is_empty() && state.is_quiet() {
            self.remove(&inbox);
            return;
        }
        self.with_inbox(&inbox, |state| state.forget(Ownership::Acquiring));
        match owner {
            Some(owner) => self.send_elsewhere(&inbox, &owner),
            None => self.ask(inbox, None),
        }
    }

    /// Sends the inbox's sessions to its owner. Outcomes of deliveries in flight are still written by this broker.
    fn send_elsewhere(&mut self, inbox: &Arc<str>, owner: &Owner) {
        let Some(state) = self.inboxes.get_mut(inbox) else { return };
        state.turn_to(Ownership::Elsewhere);
        let (links, own): (Vec<_>, Vec<_>) = std::mem::take(&mut state.sessions)
            .into_iter()
            .partition(|id| self.sessions.get(id).is_some_and(|s| s.link));
        for id in own {
            let last_tag = self.sessions.get(&id).map_or(Tag::NONE, |s| s.last_tag);
            self.effects.push(Effect::Elsewhere(id, owner.clone(), last_tag));
        }
        self.turn_away(links);
        self.give_back_if_left(inbox);
    }

    /// Asks for the lease of an inbox; at most one question is under way, and a second one is asked after its answer.
    fn ask(&mut self, inbox: Arc<str>, trouble: Option<Trouble>) {
        if let Some(state) = self.inboxes.get_mut(&inbox) {
            if state.question == Question::None {
                state.question = Question::Open;
                self.effects.push(Effect::Acquire(inbox, trouble));
            } else {
                state.question = Question::Outdated;
            }
        }
    }

    pub(super) fn released(&mut self, inbox: Arc<str>) {
        let Some(state) = self.inboxes.get(&inbox) else { return };
        if state.ownership != Ownership::GivingBack {
            return;
        }
        if state.sessions.is_empty() {
            self.remove(&inbox);
        } else {
            self.with_inbox(&inbox, |state| state.forget(Ownership::Acquiring));
            self.ask(inbox, None);
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

    /// Asks again for every inbox, even if its lease is being asked for: that answer may be from before the lapse.
    pub(super) fn lease_lapsed(&mut self) {
        let in_doubt =
            |state: &Inbox| !matches!(state.ownership, Ownership::GivingBack | Ownership::Elsewhere);
        let doubted = self.inboxes.iter().filter(|(_, state)| in_doubt(state));
        for inbox in doubted.map(|(inbox, _)| inbox.clone()).collect::<Vec<_>>() {
            self.ask(inbox, None);
        }
    }

    /// Asks anew for inboxes that may be another broker's since a moment that nobody told. Their lanes are
    /// forgotten, whatever epoch comes back: meanwhile the tail passed their rows over.
    pub(super) fn leases_lost(&mut self, inboxes: Vec<Arc<str>>) {
        for inbox in inboxes {
            let Some(state) = self.inboxes.get(&inbox) else { continue };
            if let Ownership::Loading { .. } | Ownership::Owned { .. } | Ownership::Leaving { .. } =
                state.ownership
            {
                self.with_inbox(&inbox, |state| state.forget(Ownership::Acquiring));
                self.ask(inbox, None);
            }
        }
    }
}
