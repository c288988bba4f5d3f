//! The task that holds the leases, as src/pipeline/leaser.rs has it: one statement at a time, on a connection that also holds
//! the lock of the living.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use postbell_engine::inbox::Epoch;
use postbell_engine::inbox::event::{Event, Trouble};
use rand::RngExt;
use uuid::Uuid;

use crate::leases::{InboxAnswer, LEASE, RENEW_EVERY, address};
use crate::plants::Plant;
use crate::schedule::{MS, Micros, SECOND};
use crate::statements::{Ask, Reply, STATEMENT_WAIT, Task};
use crate::world::{To, What, World};

const ASK_AGAIN: Micros = 250 * MS;
const RECONNECT_FIRST: Micros = 50 * MS;
const RECONNECT_MAX: Micros = SECOND;

#[derive(Clone, Debug, Default)]
enum Stage {
    #[default]
    Down,
    Connecting,
    Idle,
    /// Sent then.
    Renewing(Instant),
    Releasing(Vec<Arc<str>>),
    /// For the second time, since an owner's address is this broker's own.
    Acquiring {
        refusing: BTreeSet<Uuid>,
        again: bool,
    },
    Wanting(Vec<(Arc<str>, InboxAnswer)>),
}

/// See the module.
#[derive(Default)]
pub(crate) struct Leaser {
    stage: Stage,
    query: u64,
    /// The connection's number; 0: none.
    pub(crate) connection: u64,
    is_known_alive: bool,
    requests: VecDeque<(Arc<str>, Option<Option<Trouble>>)>,
    acquire: BTreeMap<Arc<str>, Option<Trouble>>,
    release: BTreeSet<Arc<str>>,
    epochs: BTreeMap<Arc<str>, Epoch>,
    refused: BTreeSet<Arc<str>>,
    until: Option<Instant>,
    renew_at: Micros,
    again_at: Micros,
    due: Option<Micros>,
    tries: u32,
}

impl Leaser {
    pub(crate) fn asks(&mut self, inbox: Arc<str>, trouble: Option<Trouble>) {
        self.requests.push_back((inbox, Some(trouble)));
    }

    pub(crate) fn gives_back(&mut self, inbox: Arc<str>) {
        self.requests.push_back((inbox, None));
    }

    fn note(&mut self) {
        for (inbox, request) in std::mem::take(&mut self.requests) {
            match request {
                // The inbox was refused a moment ago: the slow tick asks.
                Some(_) if self.refused.contains(&inbox) => {}
                Some(trouble) => {
                    self.acquire.insert(inbox, trouble);
                }
                None => {
                    self.release.insert(inbox);
                }
            }
        }
    }
}

impl World {
    pub(crate) fn leaser_connects(&mut self, b: usize) {
        let query = self.ask(b, Task::Leaser, Ask::Connect, STATEMENT_WAIT);
        let leaser = &mut self.brokers[b].leaser;
        (leaser.stage, leaser.query) = (Stage::Connecting, query);
    }

    fn leaser_asks(&mut self, b: usize, ask: Ask, limit: Micros, stage: Stage) {
        let query = self.ask(b, Task::Leaser, ask, limit);
        let leaser = &mut self.brokers[b].leaser;
        (leaser.stage, leaser.query) = (stage, query);
    }

    /// The answer that it waits for, if it waits.
    pub(crate) fn leaser_due(&mut self, b: usize) {
        let (now, instant) = (self.now, self.instant());
        let leaser = &mut self.brokers[b].leaser;
        if !matches!(leaser.stage, Stage::Idle) {
            return;
        }
        if leaser.renew_at <= now {
            leaser.renew_at = now + RENEW_EVERY;
            let connection = leaser.connection;
            return self.leaser_asks(b, Ask::Renew(connection), LEASE, Stage::Renewing(instant));
        }
        let again = !leaser.refused.is_empty() && leaser.again_at <= now;
        if again {
            leaser.again_at = now + ASK_AGAIN;
            leaser.acquire.extend(std::mem::take(&mut leaser.refused).into_iter().map(|i| (i, None)));
        }
        if again || !leaser.requests.is_empty() {
            leaser.note();
            return self.leaser_goes_on(b);
        }
        let again_at = if leaser.refused.is_empty() { Micros::MAX } else { leaser.again_at };
        let due = leaser.renew_at.min(again_at);
        if leaser.due != Some(due) {
            leaser.due = Some(due);
            self.plan_for(b, due, What::LeaserDue);
        }
    }

    fn leaser_goes_on(&mut self, b: usize) {
        let leaser = &mut self.brokers[b].leaser;
        if !leaser.release.is_empty() {
            let inboxes: Vec<_> = leaser.release.iter().cloned().collect();
            let epoch = |inbox: &Arc<str>| leaser.epochs.get(inbox).copied().unwrap_or(Epoch::NEVER);
            let given: Vec<_> = inboxes.iter().map(|inbox| (inbox.clone(), epoch(inbox))).collect();
            self.leaser_asks(b, Ask::Release(given), STATEMENT_WAIT, Stage::Releasing(inboxes));
        } else if !leaser.acquire.is_empty() {
            let refusing = leaser.acquire.values().flatten().filter(|t| t.refuses).map(|t| t.owner).collect();
            self.leaser_acquires(b, refusing, false);
        } else {
            leaser.stage = Stage::Idle;
            self.leaser_due(b);
        }
    }

    fn leaser_acquires(&mut self, b: usize, refusing: BTreeSet<Uuid>, again: bool) {
        let inboxes = self.brokers[b].leaser.acquire.keys().cloned().collect();
        let ask = Ask::Acquire(inboxes, refusing.clone());
        self.leaser_asks(b, ask, STATEMENT_WAIT, Stage::Acquiring { refusing, again });
    }

    pub(crate) fn leaser_answered(&mut self, b: usize, number: u64, reply: Result<Reply, ()>) {
        if self.brokers[b].leaser.query != number {
            return;
        }
        let Ok(reply) = reply else { return self.leaser_fails(b) };
        let stage = std::mem::take(&mut self.brokers[b].leaser.stage);
        match (stage, reply) {
            (Stage::Connecting, _) => {
                self.last_query += 1;
                let leaser = &mut self.brokers[b].leaser;
                (leaser.connection, leaser.is_known_alive) = (self.last_query, false);
                (leaser.renew_at, leaser.again_at, leaser.due) = (self.now, self.now, None);
                leaser.stage = Stage::Idle;
                self.leaser_due(b);
            }
            (Stage::Renewing(sent_at), Reply::Renewed(renewed)) => self.renewed(b, sent_at, renewed),
            (Stage::Releasing(inboxes), _) => {
                self.brokers[b].leaser.release.clear();
                for inbox in inboxes {
                    self.brokers[b].leaser.epochs.remove(&inbox);
                    self.tell(b, Event::GivenBack(inbox));
                }
                self.leaser_goes_on(b);
            }
            (Stage::Acquiring { refusing, again }, Reply::Acquired(answers)) => {
                self.acquired(b, refusing, again, answers);
            }
            (Stage::Wanting(answers), _) => self.tell_acquired(b, answers),
            (stage, reply) => unreachable!("{stage:?} {reply:?}"),
        }
    }

    fn renewed(&mut self, b: usize, sent_at: Instant, renewed: crate::leases::Renewed) {
        let now = self.instant();
        let believes = self.plant == Some(Plant::LapseBelieved);
        let leaser = &mut self.brokers[b].leaser;
        leaser.is_known_alive = renewed.is_known_alive;
        leaser.tries = 0;
        let unbroken = leaser.until.is_some_and(|until| now < until) || believes;
        let until = sent_at + std::time::Duration::from_micros(LEASE);
        leaser.until = Some(until);
        if renewed.lapsed || !unbroken {
            self.brokers[b].tail.lapsed = true;
            self.tell(b, Event::LeaseLapsed);
        }
        self.tell(b, Event::LeaseUntil(until));
        if renewed.is_orphaned {
            self.router_is_orphaned(b);
        }
        if !renewed.wanted.is_empty() {
            self.tell(b, Event::Wanted(renewed.wanted));
        }
        self.leaser_goes_on(b);
    }

    /// A wall clock by which the broker's lease ends has jumped.
    pub(crate) fn lease_is_longer(&mut self, b: usize, by: i64) {
        let Some(until) = self.brokers[b].leaser.until else { return };
        let length = std::time::Duration::from_micros(by.unsigned_abs());
        let until = if by > 0 { until + length } else { until.checked_sub(length).unwrap_or(until) };
        self.brokers[b].leaser.until = Some(until);
        self.tell(b, Event::LeaseUntil(until));
    }

    fn acquired(
        &mut self,
        b: usize,
        mut refusing: BTreeSet<Uuid>,
        again: bool,
        mut answers: Vec<(Arc<str>, InboxAnswer)>,
    ) {
        // An owner at this broker's own address had it before: whoever calls it reaches this broker.
        let predecessor = |answer: &InboxAnswer| match answer {
            InboxAnswer::Theirs(Some(owner)) if owner.address == address(b) => Some(owner.broker),
            _ => None,
        };
        if self.plant != Some(Plant::LinksToItself) {
            let predecessors: Vec<_> = answers.iter().filter_map(|(_, a)| predecessor(a)).collect();
            if !again && !predecessors.is_empty() {
                refusing.extend(predecessors);
                return self.leaser_acquires(b, refusing, true);
            }
            for (_, answer) in &mut answers {
                if predecessor(answer).is_some() {
                    *answer = InboxAnswer::Theirs(None);
                }
            }
        }
        let acquire = &self.brokers[b].leaser.acquire;
        let is_theirs = |(inbox, answer): &(Arc<str>, InboxAnswer)| {
            let has_trouble = acquire.get(inbox).is_some_and(Option::is_some);
            let is_unreachable = match answer {
                InboxAnswer::Ours(_) => false,
                InboxAnswer::Theirs(owner) => has_trouble || owner.is_none(),
            };
            is_unreachable.then(|| inbox.clone())
        };
        let unreachable: Vec<_> = answers.iter().filter_map(is_theirs).collect();
        if unreachable.is_empty() {
            self.tell_acquired(b, answers);
        } else {
            self.leaser_asks(b, Ask::Want(unreachable), STATEMENT_WAIT, Stage::Wanting(answers));
        }
    }

    fn tell_acquired(&mut self, b: usize, answers: Vec<(Arc<str>, InboxAnswer)>) {
        self.brokers[b].leaser.acquire.clear();
        for (inbox, answer) in answers {
            let event = match answer {
                InboxAnswer::Ours(epoch) => {
                    self.brokers[b].leaser.epochs.insert(inbox.clone(), epoch);
                    Event::Acquired { inbox, epoch }
                }
                InboxAnswer::Theirs(owner) => {
                    if owner.is_none() {
                        self.brokers[b].leaser.refused.insert(inbox.clone());
                    }
                    Event::NotAcquired { inbox, owner }
                }
            };
            self.tell(b, event);
        }
        self.brokers[b].leaser.stage = Stage::Idle;
        self.leaser_due(b);
    }

    fn leaser_fails(&mut self, b: usize) {
        self.drop_lock(b);
        // A renewal without an answer may have been told of a lapse.
        if matches!(self.brokers[b].leaser.stage, Stage::Renewing(_)) {
            self.brokers[b].leaser.until = None;
        }
        let mut tries = self.brokers[b].leaser.tries;
        let wait = self.pace(RECONNECT_FIRST, RECONNECT_MAX, &mut tries);
        let leaser = &mut self.brokers[b].leaser;
        (leaser.tries, leaser.stage, leaser.connection, leaser.query) = (tries, Stage::Down, 0, 0);
        self.plan_for(b, self.now + wait, What::Connect(Task::Leaser));
    }

    /// The server ends the session of a connection that is gone, sooner or later.
    pub(crate) fn drop_lock(&mut self, b: usize) {
        let (id, connection) = (self.brokers[b].id, self.brokers[b].leaser.connection);
        let most = if self.chance(80) { 300 * MS } else { 6 * SECOND };
        let after = self.rng.random_range(0..most);
        self.plan_in(after, To::World, What::Unlock(id, connection));
    }
}
