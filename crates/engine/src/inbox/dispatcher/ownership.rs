//! Sessions that come and go, and the leases of their inboxes.

use std::sync::Arc;
use std::time::Instant;

use super::{Dispatcher, Session};
use crate::inbox::event::{Effect, Owner, Trouble};
use crate::inbox::in_flight::Flight;
use crate::inbox::owned::{Inbox, Ownership, Question};
use crate::inbox::{SessionId, Tag};
use postbell_client::protocol::ErrorCode;

impl Dispatcher {
    pub(super) fn join(&mut self, now: Instant, id: SessionId, session: Session) {
        if session.link && !self.may_serve_link(&session.inbox) {
            // Its broker asks the database, which knows the owner; two brokers must not send it to each other.
            self.effects.push(Effect::Close(id, ErrorCode::NotOwner));
            return;
        }
        if session.instance.is_some() {
            // A hello may come late: from a broker that linked anew meanwhile, or whose agent has gone to another.
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

    /// Its owner was lost, or gave the inbox back: whoever is asked first by one of the inbox's sessions has it now.
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

    /// Whether this agent and instance has a session here that is certainly newer.
    fn has_newer(&self, than: &Session) -> bool {
        self.others(than).any(|s| s.rank.zip(than.rank).is_some_and(|(theirs, its)| theirs > its))
    }

    /// Whether this agent and instance came anew while the older session was elsewhere.
    fn has_another(&self, than: &Session) -> bool {
        self.others(than).any(|s| s.rank.zip(than.rank).is_none_or(|(theirs, its)| theirs > its))
    }

    /// Of this agent and instance, here.
    fn others<'a>(&'a self, session: &'a Session) -> impl Iterator<Item = &'a Session> {
        let ids = self.inboxes.get(&session.inbox).into_iter().flat_map(|state| &state.sessions);
        ids.filter_map(|id| self.sessions.get(id)).filter(|s| s.instance == session.instance && !s.closing)
    }

    /// Puts a session on its inbox, and asks for that where it is not this broker's.
    fn enter(&mut self, now: Instant, id: SessionId, inbox: Arc<str>, trouble: Option<Trouble>) {
        let state = self.inboxes.entry(inbox.clone()).or_insert_with(|| {
            self.effects.push(Effect::Acquire(inbox.clone(), trouble));
            Inbox::new()
        });
        // First in turn: it has nothing yet.
        state.sessions.push_front(id);
        match state.ownership {
            Ownership::Leaving { epoch } => {
                // Its lanes were not kept up while nobody was there; what an ordering key waits for may have come.
                self.with_inbox(&inbox, |state| state.forget(Ownership::Loading { since: now, epoch }));
                self.loading.push(inbox.clone());
                self.effects.push(Effect::WakeTail);
            }
            Ownership::Elsewhere => {
                state.ownership = Ownership::Acquiring;
                self.ask(inbox.clone(), trouble);
            }
            _ => {}
        }
        self.touched.push(inbox);
    }

    /// It finishes what it has. A link that has nothing left is closed, so that its broker can have the inbox; an agent
    /// says goodbye itself.
    pub(super) fn drain(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.draining = true;
            self.close_if_drained(id);
        }
    }

    fn close_if_drained(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(&id)
            && session.link
            && session.draining
            && session.in_flight == 0
        {
            Self::close(&mut self.effects, id, session, ErrorCode::Stopping);
        }
    }

    /// Once: the session leaves by itself.
    fn close(effects: &mut Vec<Effect>, id: SessionId, session: &mut Session, code: ErrorCode) {
        if !std::mem::replace(&mut session.closing, true) {
            effects.push(Effect::Close(id, code));
        }
    }

    /// Gives inboxes up to the brokers that ask, unless this one has sessions of its own for them.
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

    /// Ends links: their brokers ask for the inbox anew.
    fn turn_away(&mut self, links: Vec<SessionId>) {
        for id in links {
            if let Some(session) = self.sessions.get_mut(&id) {
                Self::close(&mut self.effects, id, session, ErrorCode::NotOwner);
            }
        }
    }

    /// The newest session of an agent and instance goes on; the others are told to end, and leave by themselves.
    fn take_over(&mut self, inbox: &Arc<str>, instance: &Option<String>) {
        let Some(state) = self.inboxes.get(inbox) else { return };
        for id in &state.sessions {
            let Some(old) = self.sessions.get_mut(id) else { continue };
            if old.instance == *instance {
                Self::close(&mut self.effects, *id, old, ErrorCode::TakenOver);
            }
        }
    }

    /// It ended, by itself or by the broker.
    pub(super) fn leave(&mut self, id: SessionId, written: u64, by_broker: bool) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let flights = self.in_flight.take_session(id);
        self.blame(&session, flights, written, by_broker);
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
            self.with_inbox(inbox, |state| state.forget(Ownership::Leaving { epoch }));
        }
        let Some(state) = self.inboxes.get_mut(inbox) else { return };
        if matches!(state.ownership, Ownership::Leaving { .. }) && state.is_quiet() {
            state.ownership = Ownership::Releasing;
            self.effects.push(Effect::Release(inbox.clone()));
        } else if state.ownership == Ownership::Elsewhere && state.is_quiet() {
            self.remove(inbox);
        }
    }

    pub(super) fn acquired(&mut self, now: Instant, inbox: Arc<str>, epoch: i64) {
        let Some(state) = self.inboxes.get_mut(&inbox) else {
            // It was refused, everybody left, and then it was had after all.
            self.effects.push(Effect::Release(inbox));
            return;
        };
        match std::mem::replace(&mut state.question, Question::None) {
            Question::None => return,
            Question::Outdated => return self.ask(inbox, None),
            Question::Open => {}
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

    /// The inbox's sessions link to its owner. What they have in flight is settled from here all the same.
    fn send_elsewhere(&mut self, inbox: &Arc<str>, owner: &Owner) {
        let Some(state) = self.inboxes.get_mut(inbox) else { return };
        state.ownership = Ownership::Elsewhere;
        let (links, own): (Vec<_>, Vec<_>) = std::mem::take(&mut state.sessions)
            .into_iter()
            .partition(|id| self.sessions.get(id).is_some_and(|s| s.link));
        for id in own {
            let last_tag = self.sessions.get(&id).map_or(0, |s| s.last_tag);
            self.effects.push(Effect::Elsewhere(id, owner.clone(), last_tag));
        }
        self.turn_away(links);
        self.give_back_if_left(inbox);
    }

    /// Asks for an inbox's lease; there is one question at a time.
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
        if state.ownership != Ownership::Releasing {
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

    /// Every inbox is in doubt, also one whose lease was asked for: the answer may be from before.
    pub(super) fn lease_lapsed(&mut self) {
        let in_doubt =
            |state: &Inbox| !matches!(state.ownership, Ownership::Releasing | Ownership::Elsewhere);
        let doubted = self.inboxes.iter().filter(|(_, state)| in_doubt(state));
        for inbox in doubted.map(|(inbox, _)| inbox.clone()).collect::<Vec<_>>() {
            self.ask(inbox, None);
        }
    }

    pub(super) fn session_done_with(&mut self, id: SessionId, flight: &Flight) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.in_flight -= 1;
            session.in_flight_bytes -= flight.bytes;
            if flight.is_reply {
                session.replies -= 1;
                session.replies_bytes -= flight.bytes;
            }
            session.alone &= !flight.alone;
        }
        self.close_if_drained(id);
        self.touched.push(flight.inbox.clone());
    }
}
