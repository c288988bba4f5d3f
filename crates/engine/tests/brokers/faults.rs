//! The make-up of a case: who is there, what is sent, and what breaks when. All of it is drawn before the case begins, so that
//! a failing one can be run again without one fault after another.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::agent::Agent;
use crate::broker::Broker;
use crate::clocks::{Clock, draw_steps};
use crate::database::{Row, State};
use crate::network::{ConnId, Frame, Side};
use crate::schedule::{MS, Micros, SECOND};
use crate::scripts::Routed;
use crate::world::{To, What, World};

/// Faults begin until then.
const FAULTY: Micros = 9 * SECOND;
const FAULTS_MAX: usize = 7;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A broker's process is killed, and started again at its address. With its host nobody is told by a reset.
    Crash {
        broker: usize,
        host: bool,
    },
    /// The process stands still, and goes on as if nothing were.
    Pause(usize),
    DatabaseDown,
    /// A broker's statements and their answers are lost or late.
    DatabaseLink(usize),
    /// The broker's notifications are lost, and it knows.
    Deaf(usize),
    /// The connections between the brokers, or those of a broker's agents, are reset.
    CutLinks,
    CutAgents(usize),
    /// Connections that are made now are slow, each as it likes: hellos overtake each other.
    SlowLinks,
    SlowAgents(usize),
    /// Connections that stand let nothing pass, for the time or for ever.
    BlackLinks {
        heals: bool,
    },
    BlackAgents {
        broker: usize,
        heals: bool,
    },
    AgentDies(usize),
    /// A clock jumps, at once and for good.
    ClockStep(Clock, i64),
    /// The router's statements take long, or end by an error.
    SlowRouter,
    RouterErrors,
}

#[derive(Clone, Debug)]
pub(crate) struct Timed {
    pub(crate) at: Micros,
    pub(crate) lasts: Micros,
    pub(crate) fault: Fault,
}

/// A producer's transaction.
#[derive(Clone, Debug)]
pub(crate) struct Insert {
    pub(crate) at: Micros,
    pub(crate) open_for: Micros,
    pub(crate) rolls_back: bool,
    pub(crate) row: Row,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) agents: Vec<Agent>,
    pub(crate) inserts: Vec<Insert>,
    pub(crate) faults: Vec<Timed>,
    /// With a router: producers insert messages, and no deliveries.
    pub(crate) routed: Option<Routed>,
    /// Every fault has ended and everything was sent.
    pub(crate) over_at: Micros,
}

impl Fault {
    fn draw(rng: &mut SmallRng, agents: usize) -> Self {
        let broker = rng.random_range(0..2);
        match rng.random_range(0..16) {
            0 | 1 => Self::Crash { broker, host: rng.random_bool(0.3) },
            2 | 3 => Self::Pause(broker),
            4 => Self::DatabaseDown,
            5..8 => Self::DatabaseLink(broker),
            8 => Self::Deaf(broker),
            9 => Self::CutLinks,
            10 => Self::CutAgents(broker),
            11 => Self::SlowLinks,
            12 => Self::SlowAgents(broker),
            13 => Self::BlackLinks { heals: rng.random_bool(0.6) },
            14 => Self::BlackAgents { broker, heals: rng.random_bool(0.6) },
            _ => Self::AgentDies(rng.random_range(0..agents)),
        }
    }

    pub(crate) fn deafens(&self, b: usize) -> bool {
        *self == Self::Deaf(b) || *self == Self::DatabaseDown
    }

    pub(crate) fn parts_from_database(&self, b: usize) -> bool {
        *self == Self::DatabaseLink(b) || *self == Self::DatabaseDown
    }
}

impl Plan {
    /// `clocks` draws the steps of clocks, so that a case without one is what it was before there were steps.
    pub(crate) fn draw(rng: &mut SmallRng, clocks: &mut SmallRng) -> Self {
        let agent = |rng: &mut SmallRng| {
            Agent::new(rng.random_range(0..2), rng.random_bool(0.4), rng.random_range(1..6))
        };
        let agents: Vec<Agent> = (0..rng.random_range(2..5)).map(|_| agent(rng)).collect();
        let served: Vec<Arc<str>> = agents.iter().map(|agent| agent.inbox.clone()).collect();
        let mut inserts = Vec::new();
        for _ in 0..rng.random_range(10..25) {
            let at = if rng.random_bool(0.2) { 0 } else { rng.random_range(0..FAULTY + SECOND) };
            let to = served[rng.random_range(0..served.len())].clone();
            // A burst.
            for _ in 0..rng.random_range(1..5) {
                inserts.push(Insert::draw(rng, at, to.clone()));
            }
        }
        let mut faults = Vec::new();
        if rng.random_bool(0.3) {
            faults.extend(hand_over_twice(rng));
        }
        let mut last_end = None;
        for _ in 0..rng.random_range(0..=FAULTS_MAX) {
            let (at, fault) = (rng.random_range(0..FAULTY), Fault::draw(rng, agents.len()));
            // Many begin about where another ends: what is not settled then is hit.
            let about = last_end.filter(|end| rng.random_bool(0.5) && *end < FAULTY);
            let at =
                about.map_or(at, |end: Micros| (end + rng.random_range(0..SECOND)).saturating_sub(500 * MS));
            let most = if rng.random_bool(0.5) { 1_500 * MS } else { 7 * SECOND };
            let lasts = rng.random_range(50 * MS..most);
            last_end = Some(at + lasts);
            faults.push(Timed { at, lasts, fault });
        }
        faults.extend(draw_steps(clocks, &faults, FAULTY));
        let ends = faults.iter().map(|fault| fault.at + fault.lasts);
        let sent = inserts.iter().map(|insert| insert.at + insert.open_for);
        let over_at = ends.chain(sent).max().unwrap_or(0) + SECOND;
        Self { agents, inserts, faults, routed: None, over_at }
    }

    /// The same agents and faults, with a router.
    pub(crate) fn with_router(mut self, rng: &mut SmallRng) -> Self {
        let served: Vec<Arc<str>> = self.agents.iter().map(|agent| agent.inbox.clone()).collect();
        self.inserts.clear();
        self.faults.extend(Routed::draw_faults(rng));
        let routed = Routed::draw(rng, &served);
        let ends = self.faults.iter().map(|fault| fault.at + fault.lasts);
        self.over_at = ends.chain([routed.over_at()]).max().unwrap_or(0) + SECOND;
        self.routed = Some(routed);
        self
    }

    /// Only these faults.
    pub(crate) fn keep(&mut self, kept: &[usize]) {
        let faults = std::mem::take(&mut self.faults).into_iter().enumerate();
        self.faults = faults.filter(|(index, _)| kept.contains(index)).map(|(_, fault)| fault).collect();
    }
}

/// A broker's inboxes are taken while it stands still, and free again about when it goes on.
fn hand_over_twice(rng: &mut SmallRng) -> [Timed; 2] {
    let (broker, at) = (rng.random_range(0..2), rng.random_range(SECOND..4 * SECOND));
    let lasts = rng.random_range(3_500 * MS..6 * SECOND);
    let fault = if rng.random_bool(0.5) { Fault::Pause(broker) } else { Fault::DatabaseLink(broker) };
    let crash = Fault::Crash { broker: 1 - broker, host: rng.random_bool(0.2) };
    let crashes_at = at + lasts - rng.random_range(0..3 * SECOND);
    [
        Timed { at, lasts, fault },
        Timed { at: crashes_at, lasts: rng.random_range(SECOND..4 * SECOND), fault: crash },
    ]
}

impl Insert {
    fn draw(rng: &mut SmallRng, at: Micros, inbox: Arc<str>) -> Self {
        let open_for = match rng.random_range(0..10) {
            0 => rng.random_range(0..1_500 * MS),
            _ => rng.random_range(200..3 * MS),
        };
        let key = rng.random_bool(0.25).then(|| ["red", "green"][rng.random_range(0..2)].into());
        let bytes = if rng.random_bool(0.1) { 900 * 1024 } else { rng.random_range(10..2_000) };
        let row = Row {
            inbox,
            lane: [1, 5, 5, 9][rng.random_range(0..4)],
            key,
            bytes,
            attempt: 0,
            in_company: false,
            state: State::Ready,
            txid: 0,
            message: 0,
        };
        Self { at: at + rng.random_range(0..5 * MS), open_for, rolls_back: rng.random_bool(0.05), row }
    }
}

impl World {
    pub(crate) fn fault(&mut self, index: usize) {
        let Timed { lasts, fault, .. } = self.plan.faults[index].clone();
        let until = self.now + lasts;
        self.schedule.at(until, (To::World, What::FaultEnds(index)));
        self.note(|_| format!("FAULT {fault:?} for {} ms", lasts / MS));
        match fault {
            Fault::Crash { broker, host } => self.crash(broker, host),
            Fault::Pause(b) => {
                self.brokers[b].stands_until = self.brokers[b].stands_until.max(until);
                for (conn, side) in self.conns_of(b) {
                    self.miss(conn, side.other());
                }
            }
            Fault::Deaf(b) => self.brokers[b].rope.set_up(false),
            Fault::DatabaseDown => self.brokers.iter_mut().for_each(|broker| broker.rope.set_up(false)),
            Fault::CutLinks => self.standing(None).into_iter().for_each(|conn| self.cut(conn)),
            Fault::CutAgents(b) => self.standing(Some(b)).into_iter().for_each(|conn| self.cut(conn)),
            Fault::BlackLinks { heals } => self.blacken(None, if heals { until } else { Micros::MAX }),
            Fault::BlackAgents { broker, heals } => {
                self.blacken(Some(broker), if heals { until } else { Micros::MAX });
            }
            Fault::AgentDies(a) => self.agent_dies(a),
            Fault::ClockStep(clock, by) => self.clock_steps(clock, by),
            Fault::DatabaseLink(_)
            | Fault::SlowLinks
            | Fault::SlowAgents(_)
            | Fault::SlowRouter
            | Fault::RouterErrors => {}
        }
    }

    pub(crate) fn fault_ends(&mut self, index: usize) {
        let fault = self.plan.faults[index].fault;
        match fault {
            Fault::Crash { broker, .. } if !self.brokers[broker].is_up => {
                self.plan_for(broker, self.now, What::Starts);
            }
            Fault::Deaf(_) | Fault::DatabaseDown => {
                for b in 0..2 {
                    if !self.is_faulty(|fault| fault.deafens(b)) && self.brokers[b].is_up {
                        self.brokers[b].rope.set_up(true);
                        self.plan_for(b, self.now, What::TailDue);
                    }
                }
            }
            _ => {}
        }
    }

    fn crash(&mut self, b: usize, host: bool) {
        if !self.brokers[b].is_up {
            return;
        }
        self.drop_lock(b);
        for (conn, side) in self.conns_of(b) {
            if host {
                self.hold(conn, Micros::MAX);
            }
            self.close(conn, side);
        }
        let (life, id) = (self.brokers[b].life + 1, self.brokers[b].id);
        self.brokers[b] = Broker::down(id, 0);
        self.brokers[b].life = life;
    }

    /// Links, or the connections of a broker's agents; most of them.
    fn standing(&mut self, of_agents: Option<usize>) -> Vec<ConnId> {
        let is_meant = |conn: &crate::network::Conn| match of_agents {
            None => conn.is_link(),
            Some(b) => !conn.is_link() && conn.server.0 == b,
        };
        let mut ids: Vec<_> = self.conns.iter().filter(|(_, c)| is_meant(c)).map(|(id, _)| *id).collect();
        ids.retain(|_| self.rng.random_bool(0.8));
        ids
    }

    fn cut(&mut self, conn: ConnId) {
        for side in [Side::Client, Side::Server] {
            if self.is_open(conn, side) {
                self.send(conn, side, Frame::End);
            }
        }
    }

    fn blacken(&mut self, of_agents: Option<usize>, until: Micros) {
        self.standing(of_agents).into_iter().for_each(|conn| self.hold(conn, until));
    }
}
