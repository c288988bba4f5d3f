//! The agents' side: what they ask, and what must hold when something is pushed to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::super::Op;
use super::super::database::id_of;
use super::{Agent, World, name};
use crate::inbox::dispatcher::{REPLIES_MAX, SESSION_BYTES_MAX};
use crate::inbox::event::{Effect, Event, Outcome, Push, Request};
use crate::inbox::tests::support::HOLD;
use crate::inbox::{SessionId, Tag};

impl World {
    pub(super) fn agent_step(&mut self, op: Op) {
        match op {
            Op::Join { inbox, instance, window, link } => self.join(name(inbox), instance, window, link),
            Op::Rejoin(which) => self.rejoin(which),
            Op::Drain(which) => {
                if let Some(session) = self.some_session(which) {
                    self.agents.get_mut(&session).expect("is there").draining = true;
                    self.tell(Event::Drain(session));
                }
            }
            Op::Wanted(inbox) => self.tell(Event::Wanted(vec![name(inbox)])),
            Op::Leave { session, written, by_broker } => self.leave(session, written, by_broker),
            Op::Ack { session, tags, reference } => self.ack(session, tags, reference),
            Op::Nack { session, kind } => self.nack(session, kind),
            Op::Begin { session, tags } => self.begin(session, tags),
            Op::Window { session, window } => {
                if let Some(session) = self.some_session(session) {
                    self.agents.get_mut(&session).expect("is there").window = window;
                    self.tell(Event::Request { session, request: Request::Window(window) });
                }
            }
            _ => {}
        }
    }

    pub(super) fn join(&mut self, inbox: Arc<str>, instance: usize, window: u32, link: bool) {
        self.last_session.0 += 1;
        let session = self.last_session;
        let instance = (instance > 0).then(|| instance.to_string());
        let agent = Agent {
            inbox: inbox.clone(),
            instance: instance.clone(),
            window,
            has: BTreeMap::new(),
            closed: false,
            draining: false,
            elsewhere: false,
            apart: None,
        };
        self.agents.insert(session, agent);
        self.tell(Event::Join { session, inbox, instance, window, hold: HOLD, link, rank: None });
    }

    fn rejoin(&mut self, which: usize) {
        let n = self.agents.values().filter(|agent| agent.elsewhere).count();
        let mut elsewhere = self.agents.iter_mut().filter(|(_, agent)| agent.elsewhere);
        let Some((session, agent)) = elsewhere.nth(which % n.max(1)) else { return };
        agent.elsewhere = false;
        let event = Event::Rejoin { session: *session, above: Tag::NONE, trouble: None };
        self.tell(event);
    }

    fn some_session(&self, which: usize) -> Option<SessionId> {
        self.agents.keys().nth(which % self.agents.len().max(1)).copied()
    }

    fn leave(&mut self, which: usize, written: u64, by_broker: bool) {
        if let Some(session) = self.some_session(which) {
            self.agents.remove(&session);
            self.tell(Event::Leave { session, written: Tag(written), by_broker });
        }
    }

    fn ack(&mut self, which: usize, tags: usize, reference: bool) {
        let Some(session) = self.some_session(which) else { return };
        let agent = self.agents.get_mut(&session).expect("is there");
        let acked: Vec<_> = std::iter::from_fn(|| agent.has.pop_first()).take(tags).collect();
        let tags: Vec<Tag> = acked.iter().map(|(tag, _)| *tag).collect();
        let Some(first) = tags.first() else { return };
        let reference = reference.then(|| format!("{session}/{first}"));
        if let Some(reference) = &reference {
            self.references.insert(reference.clone(), acked.iter().map(|(_, has)| has.0).collect());
        }
        self.tell(Event::Request { session, request: Request::Ack { tags, reference } });
    }

    fn begin(&mut self, which: usize, tags: usize) {
        let Some(session) = self.some_session(which) else { return };
        let tags =
            self.agents.get(&session).into_iter().flat_map(|a| a.has.keys()).take(tags).copied().collect();
        self.tell(Event::Request { session, request: Request::Begun { tags } });
    }

    fn nack(&mut self, which: usize, kind: usize) {
        let Some(session) = self.some_session(which) else { return };
        let agent = self.agents.get_mut(&session).expect("is there");
        let Some((tag, _)) = agent.has.pop_first() else { return };
        let delay = Duration::from_secs(kind as u64 % 2);
        let request = match kind / 2 % 4 {
            0 => Request::Release { tag, delay },
            1 => Request::Fail { tag, delay: Some(delay), reason: "no".into() },
            2 => Request::Fail { tag, delay: None, reason: "no".into() },
            _ => Request::Dead { tag, reason: "bad".into() },
        };
        self.tell(Event::Request { session, request });
    }

    pub(in super::super) fn advance(&mut self) {
        for effect in self.dispatcher.advance(self.now) {
            self.carry_out(effect);
        }
        assert_eq!(self.dispatcher.check(), Ok(()));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Push(session, push) => self.pushed(session, &push),
            Effect::Acked(_, reference) => {
                let ids = self.references.remove(&reference).expect("is answered once");
                let lost =
                    |id: &&i64| self.database.inbox_of(**id).is_some() && !self.database.is_disturbed(**id);
                assert_eq!(ids.iter().find(lost), None, "answered before the commit");
            }
            Effect::Refuse(_, error) => panic!("{error:?}"),
            Effect::Close(session, _) => {
                if let Some(agent) = self.agents.get_mut(&session) {
                    assert!(!std::mem::replace(&mut agent.closed, true), "closed twice");
                }
            }
            Effect::Settle(settle) => {
                let attempt = (settle.attempt.delivery_id.0, settle.attempt.failed);
                for agent in self.agents.values_mut() {
                    agent.has.retain(|_, has| (has.0, has.1) != attempt);
                }
                if matches!(settle.outcome, Outcome::Ack { .. }) {
                    self.acknowledged.insert(settle.attempt.delivery_id.0);
                }
                self.to_write.push(settle);
            }
            Effect::Elsewhere(session, ..) => {
                if let Some(agent) = self.agents.get_mut(&session) {
                    assert!(!std::mem::replace(&mut agent.elsewhere, true), "sent elsewhere twice");
                }
            }
            Effect::Acquire(inbox, _) => self.lease_requests.push_back((true, inbox)),
            Effect::GiveBack(inbox) => self.lease_requests.push_back((false, inbox)),
            Effect::Refill(refill) => {
                assert!(self.refills.iter().all(|(r, _)| r.inbox != refill.inbox), "one refill at a time");
                self.refills.push((refill, None));
            }
            Effect::Mark(_) | Effect::WakeTail => {}
        }
    }

    fn pushed(&mut self, session: SessionId, push: &Push) {
        let (id, attempt, bytes) = (id_of(&push.body), push.attempt.failed, push.body.len());
        let elsewhere = self.agents.values().flat_map(|agent| agent.has.values());
        assert!(elsewhere.clone().all(|has| (has.0, has.1) != (id, attempt)), "{id} is in flight already");
        let disturbed = self.database.is_disturbed(id);
        assert!(disturbed || elsewhere.clone().all(|has| has.0 != id), "{id} is in flight in two sessions");
        assert!(disturbed || !self.acknowledged.contains(&id), "{id} was acknowledged before");
        self.check_key(id);
        let agent = self.agents.get_mut(&session).expect("a session that is there");
        assert!(!agent.closed, "it was told to end");
        assert!(self.database.owns(&agent.inbox), "{} is another broker's", agent.inbox);
        assert!(self.database.inbox_of(id).is_none_or(|inbox| *inbox == agent.inbox));
        if self.database.must_be_apart(id) && !disturbed {
            assert!(agent.has.is_empty(), "{id} is not alone");
        }
        let apart = agent.apart.filter(|apart| agent.has.values().any(|has| has.0 == *apart));
        agent.has.insert(push.tag, (id, attempt, bytes));
        let is_reply = |id: i64| {
            let asker = self.database.asker_of(id);
            asker.is_some() && asker.as_deref() == agent.instance.as_deref()
        };
        assert!(apart.is_none() || is_reply(id), "{apart:?} is not alone any more");
        agent.apart = if self.database.must_be_apart(id) { Some(id) } else { apart };
        // A reply whose process is here may have come by the lane of its priority.
        type Has<'a> = Vec<&'a (i64, u32, usize)>;
        let (replies, ordinary): (Has<'_>, Has<'_>) = agent.has.values().partition(|has| is_reply(has.0));
        let held: usize = ordinary.iter().map(|has| has.2).sum();
        assert!(ordinary.len() <= agent.window as usize, "the window");
        assert!(held <= SESSION_BYTES_MAX || ordinary.len() == 1, "{held} bytes");
        assert!(replies.len() <= (REPLIES_MAX + agent.window) as usize, "replies beside the window");
        let held: usize = agent.has.values().map(|has| has.2).sum();
        assert!(held <= 2 * SESSION_BYTES_MAX || agent.has.len() <= 2, "{held} bytes in all");
    }

    /// Nothing else of its inbox and key is with an agent.
    fn check_key(&self, id: i64) {
        let Some(key) = self.database.key_of(id) else { return };
        for (other, ..) in self.agents.values().flat_map(|agent| agent.has.values()) {
            assert_ne!(self.database.key_of(*other).as_ref(), Some(&key), "{other} is with an agent as well");
        }
    }
}
