//! Agents: processes that want in, take what they are given, and come again wherever the balancer sends them.

use std::collections::BTreeMap;
use std::sync::Arc;

use postbell_client::protocol::ErrorCode;
use postbell_engine::inbox::Tag;
use rand::RngExt;

use crate::network::{Caller, ConnId, Frame, Hello, Nack, Side};
use crate::schedule::{MS, Micros, SECOND};
use crate::world::{To, What, World, inbox};

/// A client waits so long for its welcome (clients/rust/src/client/connection.rs).
const WELCOME_WAIT: Micros = 10 * SECOND;
/// A session that was overtaken knows it after this, whatever the links between the brokers do.
const OVERTAKEN_MAX: Micros = 12 * SECOND;
const AGAIN_FIRST: Micros = 50 * MS;
const AGAIN_MAX: Micros = SECOND;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Out,
    Calling(ConnId),
    In(ConnId),
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) life: u32,
    pub(crate) inbox: Arc<str>,
    /// Whether the instance is the same at each start, and not made up by the process.
    pub(crate) is_named: bool,
    pub(crate) window: u32,
    pub(crate) place: Place,
    pub(crate) out_since: Micros,
    /// Until then it may be sent away because of a hello that it has given up, or of a rank from before a clock's jump.
    overtaken_until: Micros,
    has: BTreeMap<Tag, i64>,
    references: u64,
    tries: u32,
}

impl Agent {
    pub(crate) fn new(number: usize, is_named: bool, window: u32) -> Self {
        Self {
            life: 0,
            inbox: inbox(number),
            is_named,
            window,
            place: Place::Out,
            out_since: 0,
            overtaken_until: 0,
            has: BTreeMap::new(),
            references: 0,
            tries: 0,
        }
    }

    fn is_on(&self, conn: ConnId) -> bool {
        self.place == Place::In(conn) || self.place == Place::Calling(conn)
    }
}

impl World {
    pub(crate) fn agent_step(&mut self, a: usize, what: What) {
        match what {
            What::TryConnect if self.agents[a].place == Place::Out => self.call(a),
            What::NotWelcomed(conn) if self.agents[a].place == Place::Calling(conn) => self.is_out(a),
            // Only who was welcomed counts heartbeats.
            What::Silent(conn, side)
                if self.agents[a].place == Place::In(conn) && self.is_silent(conn, side) =>
            {
                self.is_out(a);
            }
            What::Frame(conn, _, frame) if self.agents[a].is_on(conn) => self.agent_hears(a, conn, frame),
            What::Handled(conn, tag) if self.agents[a].place == Place::In(conn) => {
                self.has_handled(a, conn, tag);
            }
            _ => {}
        }
    }

    /// The balancer looks at nobody's health.
    fn call(&mut self, a: usize) {
        let b = self.rng.random_range(0..2);
        let life = self.agents[a].life;
        let Some(conn) = self.connect(Caller::Agent(a, life), b) else { return self.calls_again(a) };
        let agent = &mut self.agents[a];
        agent.place = Place::Calling(conn);
        let instance = if agent.is_named { format!("agent {a}") } else { format!("agent {a}, {life}") };
        let hello = Hello { inbox: agent.inbox.clone(), instance, window: agent.window, broker: None };
        self.send(conn, Side::Server, Frame::Hello(hello));
        self.plan_in(WELCOME_WAIT, To::Agent(a, life), What::NotWelcomed(conn));
    }

    fn calls_again(&mut self, a: usize) {
        let mut tries = self.agents[a].tries;
        let wait = self.pace(AGAIN_FIRST, AGAIN_MAX, &mut tries);
        let agent = &mut self.agents[a];
        agent.tries = tries;
        let life = agent.life;
        self.plan_in(wait, To::Agent(a, life), What::TryConnect);
    }

    fn is_out(&mut self, a: usize) {
        let now = self.now;
        let agent = &mut self.agents[a];
        agent.has.clear();
        match std::mem::replace(&mut agent.place, Place::Out) {
            Place::In(conn) => {
                agent.out_since = now;
                self.close(conn, Side::Client);
            }
            Place::Calling(conn) => self.close(conn, Side::Client),
            Place::Out => {}
        }
        self.calls_again(a);
    }

    /// The process ends without a word and is started again.
    pub(crate) fn agent_dies(&mut self, a: usize) {
        let now = self.now;
        let agent = &mut self.agents[a];
        agent.life += 1;
        agent.has.clear();
        let (place, life) = (std::mem::replace(&mut agent.place, Place::Out), agent.life);
        if matches!(place, Place::In(_)) {
            agent.out_since = now;
        }
        if let Place::In(conn) | Place::Calling(conn) = place {
            if self.chance(30) {
                self.hold(conn, Micros::MAX);
            }
            self.close(conn, Side::Client);
        }
        let after = self.rng.random_range(50 * MS..SECOND);
        self.plan_in(after, To::Agent(a, life), What::TryConnect);
    }

    fn agent_hears(&mut self, a: usize, conn: ConnId, frame: Frame) {
        let life = self.agents[a].life;
        match frame {
            Frame::Welcome => {
                self.agents[a].place = Place::In(conn);
                self.agents[a].tries = 0;
            }
            Frame::Msg(tag, delivery) => {
                self.agents[a].has.insert(tag, delivery);
                let most = if self.chance(3) { 5 * SECOND } else { 120 * MS };
                let after = self.rng.random_range(500..most);
                self.plan_in(after, To::Agent(a, life), What::Handled(conn, tag));
            }
            // Which is final for a named one. Where nothing late of its own can have come, nobody can be in its place.
            Frame::Error(ErrorCode::TakenOver) if !self.may_be_overtaken(a) => {
                self.fail(format!("agent {a} is sent away for good, and nobody is in its place"));
            }
            Frame::Error(_) | Frame::End => self.is_out(a),
            _ => {}
        }
    }

    /// A hello that its own agent had given up, read late, is the newer one for a broker. The broker looks whether the agent
    /// has closed the connection. Only where the network brings the hello and keeps the end back, the hello takes the place
    /// of the session that followed; a case with it is let pass.
    pub(crate) fn is_overtaking(&mut self, conn: ConnId) {
        let Some(connection) = self.conns.get(&conn) else { return };
        if let Caller::Agent(a, _) = connection.caller
            && !connection.has_ended
            && !self.is_open(conn, Side::Client)
        {
            self.may_be_overtaken_from_now_on(a);
        }
    }

    pub(crate) fn may_be_overtaken_from_now_on(&mut self, a: usize) {
        self.agents[a].overtaken_until = self.now + OVERTAKEN_MAX;
    }

    fn may_be_overtaken(&self, a: usize) -> bool {
        self.agents[a].overtaken_until > self.now
    }

    fn has_handled(&mut self, a: usize, conn: ConnId, tag: Tag) {
        let agent = &mut self.agents[a];
        let Some(delivery) = agent.has.remove(&tag) else { return };
        let frame = match self.rng.random_range(0..100) {
            0..8 => Frame::Nack(tag, Nack::Fail),
            8..12 => Frame::Nack(tag, Nack::Release(0)),
            12..16 => Frame::Nack(tag, Nack::Release(self.rng.random_range(0..800) * MS)),
            16..18 => {
                self.check.rejected.insert(delivery);
                Frame::Nack(tag, Nack::Dead)
            }
            // The agent forgets.
            18..20 => return,
            n => {
                // All that it has may be said in one line.
                let others = if n < 40 { std::mem::take(&mut agent.has) } else { BTreeMap::new() };
                let tags: Vec<Tag> = std::iter::once(tag).chain(others.keys().copied()).collect();
                self.check.handled.extend(others.into_values());
                self.check.handled.insert(delivery);
                agent.references += 1;
                let reference = (n < 60).then(|| format!("{a}/{}/{}", agent.life, agent.references));
                Frame::Ack(tags, reference)
            }
        };
        self.send(conn, Side::Server, frame);
    }
}
