//! A broker: the real dispatcher and bell, and the rules of the tasks and sessions around them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use postbell_engine::inbox::SessionId;
use postbell_engine::inbox::dispatcher::{Dispatcher, Rules, UNSETTLED_MAX};
use postbell_engine::inbox::event::{Effect, Event};
use postbell_engine::retry::RetryPolicy;
use rand::RngExt;
use uuid::Uuid;

use crate::leaser::Leaser;
use crate::network::{ConnId, Frame, Side};
use crate::router::RouterTask;
use crate::schedule::{Micros, SECOND};
use crate::session::Session;
use crate::statements::Task;
use crate::tail::{Rope, Tail};
use crate::world::{What, World};
use crate::writers::{Refiller, Settler};

pub(crate) const ATTEMPTS_MAX: u32 = 6;

const RULES: Rules = Rules {
    ack_deadline: Duration::from_secs(3),
    retry: RetryPolicy {
        base: Duration::from_millis(200),
        cap: Duration::from_secs(1),
        attempts_max: ATTEMPTS_MAX,
    },
    lease_margin: Duration::from_millis(500),
    unsettled_max: UNSETTLED_MAX,
};

/// See the module.
pub(crate) struct Broker {
    /// Which of its processes; what was meant for an earlier one is nobody's.
    pub(crate) life: u32,
    pub(crate) is_up: bool,
    pub(crate) stands_until: Micros,
    pub(crate) id: Uuid,
    pub(crate) id_before: Uuid,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    pub(crate) last_session: SessionId,
    wake_at: Option<Micros>,
    reap_at: Micros,
    /// Connections that wait to be let in, by the statement.
    pub(crate) doors: BTreeMap<u64, ConnId>,
    /// The deliveries whose acks wait for the news of a commit.
    pub(crate) references: BTreeMap<String, Vec<i64>>,
    pub(crate) leaser: Leaser,
    pub(crate) tail: Tail,
    pub(crate) rope: Rope,
    pub(crate) settler: Settler,
    pub(crate) refiller: Refiller,
    pub(crate) router: RouterTask,
    effects: VecDeque<Effect>,
}

impl Broker {
    /// One that is not started.
    pub(crate) fn down(id: Uuid, seed: u64) -> Self {
        Self {
            life: 0,
            is_up: false,
            stands_until: 0,
            id,
            id_before: id,
            dispatcher: Dispatcher::new(RULES, seed),
            sessions: BTreeMap::new(),
            last_session: SessionId(0),
            wake_at: None,
            reap_at: 0,
            doors: BTreeMap::new(),
            references: BTreeMap::new(),
            leaser: Leaser::default(),
            tail: Tail::default(),
            rope: Rope::default(),
            settler: Settler::default(),
            refiller: Refiller::default(),
            router: RouterTask::default(),
            effects: VecDeque::new(),
        }
    }
}

impl World {
    pub(crate) fn broker_step(&mut self, b: usize, what: What) {
        match what {
            What::Starts => self.start(b),
            What::Answer(query, reply) => match query.task {
                Task::Leaser => self.leaser_answered(b, query.number, reply),
                Task::Tail => self.tail_answered(b, query.number, reply),
                Task::Settler => self.settler_answered(b, query.number, reply),
                Task::Refiller => self.refiller_answered(b, query.number, reply),
                Task::Door => self.let_in(b, query.number, reply),
                Task::Router => self.router_answered(b, query.number, reply),
            },
            What::Wake => self.brokers[b].wake_at = None,
            What::TailDue => self.tail_due(b),
            What::BringRows(number) => self.bring_rows(b, number),
            What::Ring => self.brokers[b].rope.ring(),
            What::Canary(number) => self.brokers[b].rope.canary(number),
            What::LeaserDue => self.leaser_due(b),
            What::Connect(Task::Leaser) => self.leaser_connects(b),
            What::Connect(_) => self.tail_connects(b),
            What::SettlerDue => self.settler_due(b),
            What::RefillerDue => self.refiller_due(b),
            What::RouterDue => self.router_due(b),
            What::Reap => self.reap(b),
            What::LinkGivenUp(id, conn) => self.link_given_up(b, id, conn),
            What::LinkAgain(id, trouble) => self.link_again(b, id, trouble),
            What::Frame(conn, Side::Client, frame) => self.link_hears(b, conn, frame),
            What::Frame(conn, Side::Server, frame) => self.hear(b, conn, frame),
            What::Silent(conn, side) if self.is_silent(conn, side) => match side {
                Side::Client => self.link_hears(b, conn, Frame::End),
                Side::Server => self.hear(b, conn, Frame::End),
            },
            _ => {}
        }
    }

    fn start(&mut self, b: usize) {
        let (id, seed) = (self.take_id(), self.rng.random());
        let before = &self.brokers[b];
        let (life, id_before) = (before.life, before.id);
        self.brokers[b] = Broker { life, id_before, is_up: true, ..Broker::down(id, seed) };
        let hears = !self.is_faulty(|fault| fault.deafens(b));
        self.brokers[b].rope.set_up(hears);
        self.note(|_| format!("broker {b} starts as {id}"));
        self.leaser_connects(b);
        self.tail_connects(b);
        self.plan_for(b, self.now + SECOND, What::Reap);
    }

    /// src/pipeline/reaper.rs, each second and when something is due: that becomes ready, and who is silent is forgotten.
    fn reap(&mut self, b: usize) {
        if self.brokers[b].reap_at > self.now {
            return;
        }
        self.brokers[b].reap_at = self.now + SECOND;
        if !self.is_faulty(|fault| fault.parts_from_database(b)) {
            let database_now = self.database_now();
            let (promoted, next) = self.database.promote(database_now);
            self.database.sweep(database_now, self.brokers[b].id);
            self.sweep_ended();
            if !promoted.is_empty() {
                self.brokers[b].tail.wake = true;
            }
            self.promotes(&promoted);
            let next = next.map_or(Micros::MAX, |due| self.time_of_case(due));
            self.brokers[b].reap_at = self.brokers[b].reap_at.min(next);
        }
        let at = self.brokers[b].reap_at;
        self.plan_for(b, at, What::Reap);
    }

    /// The alarm: something is due then.
    pub(crate) fn reap_by(&mut self, b: usize, due: Micros) {
        let at = due.max(self.now) + self.rng.random_range(0..1_000);
        if at < self.brokers[b].reap_at {
            self.brokers[b].reap_at = at;
            self.plan_for(b, at, What::Reap);
        }
    }

    /// Tells the dispatcher; its task may look at what to do before the next input or after it.
    pub(crate) fn tell(&mut self, b: usize, event: Event) {
        let now = self.instant();
        let looks = self.rng.random_bool(0.5);
        let broker = &mut self.brokers[b];
        broker.dispatcher.handle(now, event);
        if looks {
            broker.effects.extend(broker.dispatcher.advance(now));
        }
    }

    /// Carries out what the dispatcher wants, and lets the tasks go on.
    pub(crate) fn advance(&mut self, b: usize) {
        let now = self.instant();
        loop {
            let broker = &mut self.brokers[b];
            broker.effects.extend(broker.dispatcher.advance(now));
            if broker.effects.is_empty() {
                break;
            }
            while let Some(effect) = self.brokers[b].effects.pop_front() {
                self.carry_out(b, effect);
            }
            self.tasks_go_on(b);
        }
        self.tasks_go_on(b);
        let due = self.brokers[b].dispatcher.next_wake().map(|at| self.micros(at).max(self.now + 1));
        if let Some(at) = due.filter(|at| self.brokers[b].wake_at.is_none_or(|wake| *at < wake)) {
            self.brokers[b].wake_at = Some(at);
            self.plan_for(b, at, What::Wake);
        }
    }

    fn tasks_go_on(&mut self, b: usize) {
        if self.brokers[b].is_up {
            self.leaser_due(b);
            self.settler_due(b);
            self.refiller_due(b);
            self.tail_due(b);
            self.router_due(b);
        }
    }

    fn carry_out(&mut self, b: usize, effect: Effect) {
        match effect {
            Effect::Push(id, push) => {
                self.check_push(b, id, &push);
                let Some(session) = self.brokers[b].sessions.get_mut(&id) else { return };
                session.has.insert(push.tag, (push.attempt.delivery_id.0, push.attempt.failed));
                session.written = push.tag;
                let conn = session.conn;
                self.send(conn, Side::Client, Frame::Msg(push.tag, push.attempt.delivery_id.0));
            }
            Effect::Acked(id, reference) => {
                self.check_acked(b, &reference);
                if let Some(conn) = self.brokers[b].sessions.get(&id).map(|s| s.conn) {
                    self.send(conn, Side::Client, Frame::Acked(reference));
                }
            }
            Effect::Close(id, code) => self.say_last(b, id, code),
            Effect::Settle(settle) => {
                let attempt = (settle.attempt.delivery_id.0, settle.attempt.failed);
                for session in self.brokers[b].sessions.values_mut() {
                    session.has.retain(|_, has| *has != attempt);
                }
                self.brokers[b].settler.waiting.push(settle);
            }
            Effect::Elsewhere(id, owner, last_tag) => self.link_to(b, id, owner, last_tag),
            Effect::Acquire(inbox, trouble) => {
                self.forget_turns(b, &inbox);
                self.brokers[b].leaser.asks(inbox, trouble);
            }
            Effect::GiveBack(inbox) => self.brokers[b].leaser.gives_back(inbox),
            Effect::Refill(refill) => self.brokers[b].refiller.waiting.push(refill),
            Effect::WakeTail => self.brokers[b].tail.wake = true,
            Effect::Refuse(..) | Effect::Mark(_) => {}
        }
    }
}
