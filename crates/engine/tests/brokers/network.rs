//! Connections: each keeps the order of its lines and has a delay of its own, so two connections can overtake each other. One
//! may go black, for ever or for a while, and neither end is told.

use postbell_client::protocol::ErrorCode;
use postbell_engine::inbox::{Rank, SessionId, Tag};
use rand::RngExt;
use std::sync::Arc;
use uuid::Uuid;

use crate::faults::Fault;
use crate::schedule::{MS, Micros, SECOND};
use crate::world::{To, What, World};

pub(crate) type ConnId = u64;

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// The side that called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    Agent(usize, u32),
    /// This broker, for this session of its own.
    Link(usize, u32, SessionId),
}

#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) inbox: Arc<str>,
    pub(crate) instance: String,
    pub(crate) window: u32,
    /// A broker that links, and the rank of the session it links for.
    pub(crate) broker: Option<(Uuid, Option<Rank>)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Nack {
    Release(u64),
    Fail,
    Dead,
}

#[derive(Clone, Debug)]
pub(crate) enum Frame {
    Hello(Hello),
    Welcome,
    Msg(Tag, i64),
    Ack(Vec<Tag>, Option<String>),
    Nack(Tag, Nack),
    Acked(String),
    /// The last line.
    Error(ErrorCode),
    /// The connection was closed.
    End,
}

#[derive(Clone, Debug)]
pub(crate) struct Conn {
    pub(crate) caller: Caller,
    pub(crate) server: (usize, u32),
    pub(crate) session: Option<SessionId>,
    /// The caller closed it before it was let in.
    pub(crate) has_ended: bool,
    open: [bool; 2],
    delay: [Micros; 2],
    /// From then on it is as fast as others.
    slow_until: Micros,
    last_at: [Micros; 2],
    /// Nothing arrives before this.
    held_until: Micros,
}

impl World {
    /// Calls a broker; none where nobody listens. A process that stands still is called all the same: its kernel accepts.
    pub(crate) fn connect(&mut self, caller: Caller, b: usize) -> Option<ConnId> {
        if !self.brokers[b].is_up {
            return None;
        }
        self.last_conn += 1;
        let is_link = matches!(caller, Caller::Link(..));
        let slow_until = self.faulty_until(|fault| match fault {
            Fault::SlowLinks => is_link,
            Fault::SlowAgents(x) => !is_link && *x == b,
            _ => false,
        });
        let most = if slow_until > self.now { 1_500 * MS } else { 500 };
        let delay = [self.rng.random_range(50..most), self.rng.random_range(50..most)];
        let server = (b, self.brokers[b].life);
        let conn = Conn {
            caller,
            server,
            session: None,
            has_ended: false,
            open: [true; 2],
            delay,
            slow_until,
            last_at: [0; 2],
            held_until: 0,
        };
        self.conns.insert(self.last_conn, conn);
        Some(self.last_conn)
    }

    /// Sends a line to one end.
    pub(crate) fn send(&mut self, id: ConnId, to: Side, frame: Frame) {
        let now = self.now;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let n = to as usize;
        if !conn.open[1 - n] && !matches!(frame, Frame::End) {
            return;
        }
        let delay = if now < conn.slow_until { conn.delay[n] } else { conn.delay[n].min(500) };
        let at = (now + delay).max(conn.last_at[n]).max(conn.held_until);
        conn.last_at[n] = at;
        if at < Micros::MAX {
            let whom = conn.end(to);
            self.schedule.at(at, (whom, What::Frame(id, to, frame)));
        }
    }

    /// One end closes; the other is told, if the network does.
    pub(crate) fn close(&mut self, id: ConnId, side: Side) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.open[side as usize], false) {
            self.send(id, side.other(), Frame::End);
        }
    }

    pub(crate) fn is_open(&self, id: ConnId, side: Side) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.open[side as usize])
    }

    /// Nothing passes any more until then. Both ends miss the other one's heartbeats.
    pub(crate) fn hold(&mut self, id: ConnId, until: Micros) {
        let now = self.now;
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.held_until = conn.held_until.max(until);
            if until > now + SECOND {
                self.miss(id, Side::Client);
                self.miss(id, Side::Server);
            }
        }
    }

    /// This end has not heard of the other for two heartbeats, in a while.
    pub(crate) fn miss(&mut self, id: ConnId, side: Side) {
        let after = self.rng.random_range(1_500 * MS..3_000 * MS);
        if let Some(whom) = self.conns.get(&id).map(|conn| conn.end(side)) {
            self.plan_in(after, whom, What::Silent(id, side));
        }
    }

    /// Whether it is as silent as it seemed.
    pub(crate) fn is_silent(&self, id: ConnId, side: Side) -> bool {
        let Some(conn) = self.conns.get(&id) else { return false };
        let other = conn.end(side.other());
        let stands = |b: usize, life| self.brokers[b].life != life || self.brokers[b].stands_until > self.now;
        let stands = matches!(other, To::Broker(b, life) if stands(b, life));
        conn.open[side as usize] && (conn.held_until > self.now || stands)
    }

    /// The connections that this broker has, and its end of each.
    pub(crate) fn conns_of(&self, b: usize) -> Vec<(ConnId, Side)> {
        let life = self.brokers[b].life;
        let mut found = Vec::new();
        for (id, conn) in &self.conns {
            if conn.server == (b, life) && conn.open[Side::Server as usize] {
                found.push((*id, Side::Server));
            }
            if matches!(conn.caller, Caller::Link(x, l, _) if (x, l) == (b, life))
                && conn.open[Side::Client as usize]
            {
                found.push((*id, Side::Client));
            }
        }
        found
    }
}

impl Conn {
    fn end(&self, side: Side) -> To {
        match (side, self.caller) {
            (Side::Server, _) => To::Broker(self.server.0, self.server.1),
            (Side::Client, Caller::Agent(a, life)) => To::Agent(a, life),
            (Side::Client, Caller::Link(b, life, _)) => To::Broker(b, life),
        }
    }

    pub(crate) fn is_link(&self) -> bool {
        matches!(self.caller, Caller::Link(..))
    }
}
