//! A session's link to the broker that owns its inbox, as src/agents/session/link.rs and route.rs have it.

use std::collections::BTreeSet;

use postbell_client::protocol::ErrorCode;
use postbell_engine::inbox::event::{Event, Owner, Trouble};
use postbell_engine::inbox::{SessionId, Tag};

use crate::leases::address;
use crate::network::{Caller, ConnId, Frame, Hello, Side};
use crate::plants::Plant;
use crate::schedule::{MS, Micros, SECOND};
use crate::world::{What, World};

const LINK_WAIT: Micros = 500 * MS;
const GOOD_AFTER: Micros = SECOND;
const AGAIN_FIRST: Micros = 20 * MS;
const AGAIN_MAX: Micros = 250 * MS;

#[derive(Clone, Debug, Default)]
pub(crate) enum Stage {
    /// The inbox is this broker's, or asked for.
    #[default]
    Home,
    Calling(ConnId),
    Standing(Standing),
    /// Before it asks again.
    Resting,
}

#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) conn: ConnId,
    since: Micros,
    /// The link's tags are above this one.
    base: Tag,
    /// By the owner's tags.
    in_flight: BTreeSet<Tag>,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    pub(crate) stage: Stage,
    owner: Option<Owner>,
    last_tag: Tag,
    attempts: i64,
    tries: u32,
}

impl Standing {
    /// The owner's tag, if it has it.
    pub(crate) fn take(&mut self, tag: Tag) -> Option<Tag> {
        let theirs = Tag(tag.0.checked_sub(self.base.0)?);
        self.in_flight.remove(&theirs).then_some(theirs)
    }
}

impl World {
    pub(crate) fn link_to(&mut self, b: usize, id: SessionId, owner: Owner, last_tag: Tag) {
        let (broker, life) = (self.brokers[b].id, self.brokers[b].life);
        let Some(session) = self.brokers[b].sessions.get_mut(&id) else { return };
        let link = &mut session.link;
        (link.last_tag, link.owner) = (last_tag, Some(owner.clone()));
        link.attempts += 1;
        let rank = session.rank.map(|rank| rank.of_attempt(link.attempts));
        let rank = rank.filter(|_| self.plant != Some(Plant::LinkWithoutRank));
        let hello = Hello {
            inbox: session.inbox.clone(),
            instance: session.instance.clone(),
            window: session.window,
            broker: Some((broker, rank)),
        };
        let target = (0..2).find(|n| address(*n) == owner.address).unwrap_or(b);
        let Some(conn) = self.connect(Caller::Link(b, life, id), target) else {
            return self.link_lost(b, id, Some(true));
        };
        if let Some(session) = self.brokers[b].sessions.get_mut(&id) {
            session.link.stage = Stage::Calling(conn);
        }
        self.send(conn, Side::Server, Frame::Hello(hello));
        self.plan_for(b, self.now + LINK_WAIT, What::LinkGivenUp(id, conn));
    }

    /// `Some`: cut, or never had; whether nobody listens there. `None`: the owner gave the inbox up.
    fn link_lost(&mut self, b: usize, id: SessionId, refuses: Option<bool>) {
        let now = self.now;
        let Some(session) = self.brokers[b].sessions.get_mut(&id) else { return };
        let mut tries = session.link.tries;
        let conn = match std::mem::replace(&mut session.link.stage, Stage::Resting) {
            Stage::Calling(conn) => Some(conn),
            Stage::Standing(standing) => {
                if now - standing.since > GOOD_AFTER {
                    tries = 0;
                }
                Some(standing.conn)
            }
            Stage::Home | Stage::Resting => None,
        };
        let owner = session.link.owner.as_ref().map(|owner| owner.broker);
        let trouble = owner.zip(refuses).map(|(owner, refuses)| Trouble { owner, refuses });
        let wait = self.pace(AGAIN_FIRST, AGAIN_MAX, &mut tries);
        if let Some(session) = self.brokers[b].sessions.get_mut(&id) {
            session.link.tries = tries;
        }
        if let Some(conn) = conn {
            self.close(conn, Side::Client);
        }
        self.plan_for(b, self.now + wait, What::LinkAgain(id, trouble));
    }

    pub(crate) fn link_again(&mut self, b: usize, id: SessionId, trouble: Option<Trouble>) {
        let Some(session) = self.brokers[b].sessions.get_mut(&id) else { return };
        session.link.stage = Stage::Home;
        let above = session.link.last_tag;
        self.tell(b, Event::Rejoin { session: id, above, trouble });
    }

    pub(crate) fn link_given_up(&mut self, b: usize, id: SessionId, conn: ConnId) {
        let stage = self.brokers[b].sessions.get(&id).map(|session| &session.link.stage);
        if matches!(stage, Some(Stage::Calling(c)) if *c == conn) {
            self.link_lost(b, id, Some(false));
        }
    }

    /// The owner's words.
    pub(crate) fn link_hears(&mut self, b: usize, conn: ConnId, frame: Frame) {
        let Some(Caller::Link(_, _, id)) = self.conns.get(&conn).map(|conn| conn.caller) else { return };
        let now = self.now;
        let Some(session) = self.brokers[b].sessions.get_mut(&id) else { return };
        let agent = session.conn;
        match (&mut session.link.stage, frame) {
            (Stage::Calling(c), Frame::Welcome) if *c == conn => {
                let base = session.link.last_tag;
                let standing = Standing { conn, since: now, base, in_flight: BTreeSet::new() };
                session.link.stage = Stage::Standing(standing);
            }
            (Stage::Standing(standing), Frame::Msg(theirs, delivery)) if standing.conn == conn => {
                standing.in_flight.insert(theirs);
                let tag = Tag(standing.base.0 + theirs.0);
                session.link.last_tag = tag;
                session.written = tag;
                self.send(agent, Side::Client, Frame::Msg(tag, delivery));
            }
            (Stage::Standing(standing), Frame::Acked(reference)) if standing.conn == conn => {
                self.send(agent, Side::Client, Frame::Acked(reference));
            }
            (Stage::Standing(s), Frame::Error(ErrorCode::TakenOver)) if s.conn == conn => {
                self.send(agent, Side::Client, Frame::Error(ErrorCode::TakenOver));
                self.session_ends(b, id);
            }
            (stage, Frame::Error(ErrorCode::NotOwner)) if stage.is_on(conn) => self.link_lost(b, id, None),
            (stage, Frame::Error(_) | Frame::End) if stage.is_on(conn) => {
                self.link_lost(b, id, Some(false));
            }
            _ => {}
        }
    }
}

impl Stage {
    /// Whether this connection is its.
    pub(crate) fn is_on(&self, conn: ConnId) -> bool {
        match self {
            Self::Calling(c) => *c == conn,
            Self::Standing(standing) => standing.conn == conn,
            Self::Home | Self::Resting => false,
        }
    }
}
