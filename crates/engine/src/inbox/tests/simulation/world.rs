//! The dispatcher, the tasks around it and the agents.

mod agents;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::Op;
use super::database::{Commit, Database};
use crate::inbox::dispatcher::Dispatcher;
use crate::inbox::event::{Event, KeyRows, LaneRows, Owner, Refill, Settle};
use crate::inbox::tests::support::{RULES, take};
use crate::inbox::{Entry, Epoch, SessionId, Tag};

pub(super) type Rows = (Vec<LaneRows>, Vec<KeyRows>);

/// An agent's session, with what it has: tags, deliveries, attempts, sizes.
struct Agent {
    inbox: Arc<str>,
    instance: Option<String>,
    window: u32,
    has: BTreeMap<Tag, (i64, u32, usize)>,
    closed: bool,
    draining: bool,
    /// Linked to another broker.
    elsewhere: bool,
    /// The delivery that was pushed to it apart.
    apart: Option<i64>,
}

struct Round {
    started_at: Instant,
    snapshot: Commit,
    left: VecDeque<(Arc<str>, Entry)>,
    brought: bool,
}

pub(super) struct World {
    dispatcher: Dispatcher,
    now: Instant,
    database: Database,
    snapshot: Commit,
    round: Option<Round>,
    refills: Vec<(Refill, Option<Rows>)>,
    /// `true`: acquire, `false`: release.
    lease_requests: VecDeque<(bool, Arc<str>)>,
    lease_answers: VecDeque<Event>,
    to_write: Vec<Settle>,
    written: Vec<Settle>,
    agents: BTreeMap<SessionId, Agent>,
    last_session: SessionId,
    acknowledged: BTreeSet<i64>,
    references: HashMap<String, Vec<i64>>,
}

impl World {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let mut dispatcher = Dispatcher::new(RULES, 1);
        dispatcher.handle(now, Event::LeaseUntil(now + Duration::from_secs(1_000_000)));
        Self {
            dispatcher,
            now,
            database: Database::default(),
            snapshot: 0,
            round: None,
            refills: Vec::new(),
            lease_requests: VecDeque::new(),
            lease_answers: VecDeque::new(),
            to_write: Vec::new(),
            written: Vec::new(),
            agents: BTreeMap::new(),
            last_session: SessionId(0),
            acknowledged: BTreeSet::new(),
            references: HashMap::new(),
        }
    }

    pub(super) fn step(&mut self, op: Op) {
        self.now += Duration::from_micros(1);
        match op {
            Op::Insert { inbox, priority, units, terms } => {
                self.database.insert(name(inbox), priority, units, terms)
            }
            Op::Commit(which) => self.database.commit(which),
            Op::Promote => self.database.promote(),
            Op::StartRound => self.start_round(),
            Op::Bring(rows) => self.bring(rows),
            Op::BreakRound => {
                if self.round.take().is_some_and(|round| round.brought) {
                    self.tell(Event::TailBroken);
                }
            }
            Op::ReadRefill(which) => self.read_refill(which),
            Op::ApplyRefill(which) => self.apply_refill(which),
            Op::FailRefill(which) => {
                if let Some((refill, _)) = take(&mut self.refills, which) {
                    self.tell(Event::RefillFailed(refill.inbox));
                }
            }
            Op::CarryOutLease => self.carry_out_lease(),
            Op::TellLease => {
                if let Some(answer) = self.lease_answers.pop_front() {
                    self.tell(answer);
                }
            }
            Op::Lapse { taken } => {
                if taken {
                    self.database.take_all();
                }
                self.tell(Event::LeaseLapsed);
            }
            Op::Lose { taken } => {
                // The leaser tells what it finds after the answers that it had before.
                for answer in std::mem::take(&mut self.lease_answers) {
                    self.tell(answer);
                }
                let lost = self.database.lose_all(taken);
                self.start_round();
                self.bring(usize::MAX);
                self.tell(Event::LeasesLost(lost));
            }
            Op::OthersLeave(which) => self.database.others_leave(which),
            Op::WriteOutcome(which) => {
                if let Some(settle) = take(&mut self.to_write, which) {
                    self.database.settle(&settle);
                    self.written.push(settle);
                }
            }
            Op::WriteAgain(which) => {
                if let Some(settle) = self.written.get(which % self.written.len().max(1)) {
                    self.database.settle_again(settle);
                }
            }
            Op::TellOutcomes(which) => {
                if let Some(settle) = take(&mut self.written, which) {
                    self.tell(Event::Settled(vec![settle]));
                }
            }
            Op::Wait(wait) => self.now += wait,
            _ => self.agent_step(op),
        }
    }

    fn tell(&mut self, event: Event) {
        self.dispatcher.handle(self.now, event);
    }

    fn start_round(&mut self) {
        if self.round.is_none() {
            self.round = Some(Round {
                started_at: self.now,
                snapshot: self.database.last_commit(),
                left: self.database.since(self.snapshot, self.now).into(),
                brought: false,
            });
        }
    }

    fn bring(&mut self, rows: usize) {
        let Some(mut round) = self.round.take() else { return };
        let rows: Vec<_> = round.left.drain(..rows.min(round.left.len())).collect();
        if !rows.is_empty() {
            round.brought = true;
            self.tell(Event::Arrived(rows));
        }
        if round.left.is_empty() {
            self.snapshot = round.snapshot;
            let snapshot = round.snapshot.to_string().as_str().into();
            self.tell(Event::TailRound { started_at: round.started_at, snapshot });
        } else {
            self.round = Some(round);
        }
    }

    fn read_refill(&mut self, which: usize) {
        let n = self.refills.len().max(1);
        if let Some((refill, rows)) = self.refills.get_mut(which % n) {
            *rows = Some(self.database.read(refill, self.now));
        }
    }

    fn apply_refill(&mut self, which: usize) {
        let n = self.refills.len().max(1);
        if self.refills.get(which % n).is_some_and(|(_, rows)| rows.is_some())
            && let Some((refill, Some((lanes, keys)))) = take(&mut self.refills, which)
        {
            self.tell(Event::Refilled { inbox: refill.inbox, lanes, keys });
        }
    }

    fn carry_out_lease(&mut self) {
        let answer = match self.lease_requests.pop_front() {
            None => return,
            Some((false, inbox)) => {
                self.database.release(&inbox);
                Event::GivenBack(inbox)
            }
            Some((true, inbox)) => match self.database.acquire(&inbox) {
                Some(epoch) => Event::Acquired { inbox, epoch: Epoch(epoch) },
                None => {
                    // Now and then the owner is not known.
                    let owner = Owner { broker: Uuid::nil(), address: "other".into(), certificate: None };
                    let owner = (!self.last_session.0.is_multiple_of(3)).then_some(owner);
                    Event::NotAcquired { inbox, owner }
                }
            },
        };
        self.lease_answers.push_back(answer);
    }

    /// The tasks catch up.
    fn catch_up(&mut self) {
        let table = [Op::Commit(0), Op::Promote, Op::OthersLeave(0), Op::StartRound, Op::Bring(usize::MAX)];
        let answers = [Op::CarryOutLease, Op::TellLease, Op::ReadRefill(0), Op::ApplyRefill(0)];
        let outcomes = [Op::WriteOutcome(0), Op::TellOutcomes(0), Op::Rejoin(0)];
        // The delays of ordering keys pass with the clock, those in the table by `Promote`.
        let wait = [Op::Wait(Duration::from_secs(1))];
        for op in wait.into_iter().chain(table).chain(answers).chain(outcomes) {
            self.step(op);
            self.advance();
        }
    }

    pub(super) fn deliver_everything(&mut self) {
        for _ in 0..400 {
            for inbox in 0..2 {
                let is_served = |a: &Agent| a.inbox == name(inbox) && !a.closed && !a.draining;
                if !self.agents.values().any(is_served) {
                    self.step(Op::Join { inbox, instance: 0, window: 5, link: false });
                }
            }
            self.catch_up();
            for session in 0..self.agents.len() {
                self.step(Op::Ack { session, tags: 5, reference: true });
            }
            if self.database.undelivered().is_empty() && self.to_write.is_empty() {
                return;
            }
        }
        panic!("{:?} were lost: {}", self.database.undelivered(), self.dispatcher.sketch());
    }

    pub(super) fn everybody_leaves(&mut self) {
        while !self.agents.is_empty() {
            self.step(Op::Leave { session: 0, written: 0, by_broker: false });
        }
        for _ in 0..1_000 {
            self.catch_up();
        }
        let dispatcher = &self.dispatcher;
        assert!(dispatcher.is_empty(), "an inbox is not given back");
        assert!(!self.database.has_leases(), "a lease is not given back");
        let left =
            (dispatcher.in_flight(), dispatcher.unsettled(), dispatcher.lanes_bytes(), dispatcher.sessions());
        assert_eq!(left, (0, 0, 0, 0));
        assert!(self.references.is_empty(), "{:?} were not answered", self.references);
    }
}

fn name(inbox: usize) -> Arc<str> {
    ["a", "b"][inbox].into()
}
