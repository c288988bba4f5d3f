//! The world of one case: the database, two brokers, their agents, and what happens next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use uuid::Uuid;

use crate::agent::Agent;
use crate::asks::RouterAsk;
use crate::broker::Broker;
use crate::check::Check;
use crate::clocks::Clocks;
use crate::database::Database;
use crate::faults::{Fault, Plan};
use crate::network::{Conn, ConnId};
use crate::order::Order;
use crate::plants::Plant;
use crate::producers::Transaction;
use crate::routing::Routing;
use crate::schedule::{Micros, SECOND, Schedule};
use crate::statements::Ask;
pub(crate) use crate::what::{To, What};

/// When the case is over if it has not drained before.
pub(crate) const DRAINED_WITHIN: Micros = 25 * SECOND;
/// More steps than this say that something goes in circles.
const STEPS_MAX: u64 = 400_000;

/// The draws for a case with a router are its own.
const ROUTER_SEEDS: u64 = 0x7275_6f74;

/// A seed, the rule that is not kept, and whether producers leave their messages to a router.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) plant: Option<Plant>,
    pub(crate) has_router: bool,
}

/// See the module.
pub(crate) struct World {
    pub(crate) now: Micros,
    epoch: Instant,
    pub(crate) rng: SmallRng,
    pub(crate) schedule: Schedule<(To, What)>,
    pub(crate) database: Database,
    pub(crate) clocks: Clocks,
    pub(crate) brokers: Vec<Broker>,
    pub(crate) agents: Vec<Agent>,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) last_conn: ConnId,
    pub(crate) last_query: u64,
    pub(crate) last_id: u128,
    pub(crate) plan: Plan,
    pub(crate) plant: Option<Plant>,
    pub(crate) check: Check,
    pub(crate) transactions: Vec<Transaction>,
    pub(crate) routing: Routing,
    pub(crate) order: Order,
    /// The events so far, where they are to be printed.
    pub(crate) log: Option<Vec<String>>,
    /// A digest of all that happened: two runs of one seed must be the same.
    pub(crate) fingerprint: u64,
    pub(crate) broken: Option<String>,
}

impl World {
    /// `kept`: which of the plan's faults happen; all, if it does not say.
    pub(crate) fn new(case: Case, kept: Option<&[usize]>, logs: bool) -> Self {
        let Case { seed, plant, has_router } = case;
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut plan = Plan::draw(&mut rng, &mut SmallRng::seed_from_u64(!seed));
        if has_router {
            plan = plan.with_router(&mut SmallRng::seed_from_u64(seed ^ ROUTER_SEEDS));
        }
        if let Some(kept) = kept {
            plan.keep(kept);
        }
        let mut world = Self {
            now: 0,
            epoch: Instant::now(),
            rng,
            schedule: Schedule::new(),
            database: Database::new(plant),
            clocks: Clocks::default(),
            brokers: Vec::new(),
            agents: Vec::new(),
            conns: BTreeMap::new(),
            last_conn: 0,
            last_query: 0,
            last_id: 0,
            plan,
            plant,
            check: Check::default(),
            transactions: Vec::new(),
            routing: Routing::default(),
            order: Order::default(),
            log: logs.then(Vec::new),
            fingerprint: 0,
            broken: None,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for index in 0..2 {
            let id = self.take_id();
            let seed = self.rng.random();
            self.brokers.push(Broker::down(id, seed));
            self.plan_in(0, To::Broker(index, 0), What::Starts);
        }
        for (index, agent) in self.plan.agents.clone().into_iter().enumerate() {
            let at = self.rng.random_range(0..2 * SECOND);
            self.agents.push(agent);
            self.schedule.at(at, (To::Agent(index, 0), What::TryConnect));
        }
        for (index, insert) in self.plan.inserts.iter().enumerate() {
            self.schedule.at(insert.at, (To::World, What::Insert(index)));
        }
        if let Some(routed) = self.plan.routed.clone() {
            for (index, script) in routed.scripts.iter().enumerate() {
                self.transactions.push(Transaction::default());
                self.schedule.at(script.begins, (To::World, What::Begin(index)));
            }
            for (index, poll) in routed.polls.iter().enumerate() {
                self.schedule.at(poll.at, (To::World, What::Poll(index)));
            }
        }
        for (index, fault) in self.plan.faults.iter().enumerate() {
            self.schedule.at(fault.at, (To::World, What::Fault(index)));
        }
    }

    /// Runs until everything is delivered after the last fault, or something is wrong.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        let over =
            self.plan.over_at + if self.plan.routed.is_some() { 4 * DRAINED_WITHIN } else { DRAINED_WITHIN };
        let mut steps = 0;
        while let Some((at, (to, what))) = self.schedule.next() {
            debug_assert!(at >= self.now);
            if at > over || steps > STEPS_MAX {
                break;
            }
            self.now = at;
            steps += 1;
            self.step(to, what);
            if let Some(broken) = self.broken.take().or_else(|| self.database.broken.take()) {
                return Err(broken);
            }
            if steps % 16 == 0 && at > self.plan.over_at && self.has_drained() {
                return Ok(());
            }
        }
        self.why_not_drained()
    }

    fn step(&mut self, to: To, what: What) {
        match to {
            To::World => self.world_step(what),
            To::Broker(b, life) => {
                if self.brokers[b].life != life {
                    return;
                }
                let until = self.brokers[b].stands_until;
                if until > self.now {
                    self.schedule.at(until, (to, what));
                    return;
                }
                self.note(|_| format!("broker {b}: {what:?}"));
                self.broker_step(b, what);
                self.advance(b);
                self.check_broker(b);
            }
            To::Agent(a, life) => {
                if self.agents[a].life == life {
                    self.note(|_| format!("agent {a}: {what:?}"));
                    self.agent_step(a, what);
                }
            }
        }
    }

    fn world_step(&mut self, what: What) {
        let is_usual = match &what {
            What::Producer(_) | What::Routing(_) => true,
            What::Execute { ask: Ask::Router(_, ask), .. } => matches!(ask, RouterAsk::Route { .. }),
            What::Execute { ask, .. } => matches!(ask, Ask::Tail(_) | Ask::Arm(_) | Ask::Renew(_)),
            _ => false,
        };
        if !is_usual {
            self.note(|_| format!("world: {what:?}"));
        }
        match what {
            What::Insert(index) => self.insert(index),
            What::Commit { txid, rolls_back: true, .. } => self.database.roll_back(txid),
            What::Commit { txid, rings, .. } => {
                self.database.commit(txid);
                if rings {
                    (0..2).for_each(|b| self.notify(b, What::Ring));
                }
            }
            What::Begin(t) => self.producer_waits(t),
            What::Producer(t) => self.producer_goes_on(t),
            What::Poll(index) => self.poll(index),
            What::Polled { message, deliveries, deletes, may_be_routed } => {
                self.polled(message, &deliveries, deletes, may_be_routed);
            }
            What::Routing(number) => self.routing_goes_on(number),
            What::Fault(index) => self.fault(index),
            What::FaultEnds(index) => self.fault_ends(index),
            What::Execute { broker, life, query, ask: Ask::Router(by, ask), answer } => {
                self.routing_begins(To::Broker(broker, life), query, by, ask, answer);
            }
            What::Execute { broker, life, query, ask, answer } => {
                let reply = self.execute(broker, life, query, ask);
                if let Some(at) = answer {
                    self.schedule
                        .at(at.max(self.now), (To::Broker(broker, life), What::Answer(query, Ok(reply))));
                }
            }
            What::Unlock(broker, connection) if self.database.alive.get(&broker) == Some(&connection) => {
                self.database.alive.remove(&broker);
            }
            _ => {}
        }
    }

    fn insert(&mut self, index: usize) {
        let insert = self.plan.inserts[index].clone();
        let row = insert.row;
        let terms = (row.inbox.clone(), row.lane, row.key.clone());
        let (txid, id, rings) = self.database.insert(self.database_now(), row);
        self.check.terms.insert(id, terms);
        let commit = What::Commit { txid, rings, rolls_back: insert.rolls_back };
        self.schedule.at(self.now + insert.open_for, (To::World, commit));
    }

    /// A notification: those of one listener come in the order of commits; while it is not heard, they are lost.
    pub(crate) fn notify(&mut self, b: usize, what: What) {
        let delay = self.rng.random_range(100..800);
        let broker = &mut self.brokers[b];
        if broker.rope.up {
            broker.rope.last_at = broker.rope.last_at.max(self.now + delay);
            let (at, life) = (broker.rope.last_at, broker.life);
            self.schedule.at(at, (To::Broker(b, life), what));
        } else {
            // Nobody listens there: the row is found by a safety round.
            self.check.unannounced[b] = true;
        }
    }

    pub(crate) fn plan_in(&mut self, delay: Micros, to: To, what: What) {
        self.schedule.at(self.now + delay, (to, what));
    }

    /// To a broker's process as it lives now.
    pub(crate) fn plan_for(&mut self, b: usize, at: Micros, what: What) {
        let life = self.brokers[b].life;
        self.schedule.at(at.max(self.now), (To::Broker(b, life), what));
    }

    pub(crate) fn instant(&self) -> Instant {
        self.epoch + Duration::from_micros(self.now)
    }

    /// Rounded up, so that what is due at `at` is due then.
    pub(crate) fn micros(&self, at: Instant) -> Micros {
        at.saturating_duration_since(self.epoch).as_nanos().div_ceil(1_000) as Micros
    }

    pub(crate) fn take_id(&mut self) -> Uuid {
        self.last_id += 1;
        Uuid::from_u128(self.last_id)
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_range(0..100) < percent
    }

    /// Around `first` doubled `tries` times, `max` at most, spread by half (src/base/pace.rs).
    pub(crate) fn pace(&mut self, first: Micros, max: Micros, tries: &mut u32) -> Micros {
        let wait = (first << (*tries).min(10)).min(max);
        *tries += 1;
        self.rng.random_range(wait / 2..=wait * 3 / 2)
    }

    /// Until when such a fault lasts that is there now.
    pub(crate) fn faulty_until(&self, is_it: impl Fn(&Fault) -> bool) -> Micros {
        let now = self.now;
        let there =
            self.plan.faults.iter().filter(|f| f.at <= now && now < f.at + f.lasts && is_it(&f.fault));
        there.map(|f| f.at + f.lasts).max().unwrap_or(0)
    }

    pub(crate) fn is_faulty(&self, is_it: impl Fn(&Fault) -> bool) -> bool {
        self.faulty_until(is_it) > self.now
    }

    pub(crate) fn fail(&mut self, sentence: String) {
        self.note(|_| format!("BROKEN: {sentence}"));
        self.broken.get_or_insert(sentence);
    }

    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        // Time and order make a fingerprint of the case; what happened only costs where it is printed.
        self.fingerprint =
            self.fingerprint.wrapping_mul(0x100_0000_01b3) ^ self.now ^ self.database.rows.len() as u64;
        if self.log.is_some() {
            let line = format!("{:>10.6} {}", self.now as f64 / SECOND as f64, line(self));
            self.log.get_or_insert_default().push(line);
        }
    }
}

/// A name of an inbox.
pub(crate) fn inbox(number: usize) -> Arc<str> {
    ["alpha", "beta", "gamma"][number].into()
}
