//! Statements on their way to the database and back: answered, or lost, or late, and then the one who asked does not know
//! whether they were carried out.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postbell_client::message::Priority;
use postbell_engine::inbox::event::{KeyRows, LaneRows, Refill, Settle};
use postbell_engine::inbox::{Attempt, DeliveryId, Entry, Epoch, Rank, Terms};
use rand::RngExt;
use uuid::Uuid;

use crate::asks::RouterAsk;
use crate::database::{Row, Seen, State};
use crate::faults::Fault;
use crate::leases::{InboxAnswer, Renewed};
use crate::network::Hello;
use crate::routing::RouterReply;
use crate::schedule::{MS, Micros, SECOND};
use crate::world::{To, What, World};

/// A statement is given up after so long (src/store/connection.rs).
pub(crate) const STATEMENT_WAIT: Micros = 4 * SECOND;
/// How many bytes a message of this case may have; all share them.
pub(crate) static BODY: std::sync::LazyLock<Bytes> =
    std::sync::LazyLock::new(|| Bytes::from(vec![0; 1 << 20]));

/// A duty that asks: each has a connection of its own, and one statement at a time but for the pool's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Leaser,
    Tail,
    Settler,
    Refiller,
    Door,
    Router,
}

/// A statement's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) task: Task,
    pub(crate) number: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum Ask {
    Connect,
    /// On this connection, for the lock of the living.
    Renew(u64),
    Acquire(Vec<Arc<str>>, BTreeSet<Uuid>),
    Release(Vec<(Arc<str>, Epoch)>),
    Want(Vec<Arc<str>>),
    Arm(bool),
    Tail(Seen),
    Refill(Vec<Refill>),
    Settle(Vec<Settle>),
    LetIn(Hello),
    /// By this broker.
    Router(Uuid, RouterAsk),
}

#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Done,
    Snapshot(Seen),
    Renewed(Renewed),
    Acquired(Vec<(Arc<str>, InboxAnswer)>),
    Rows(Vec<(i64, Row)>, Seen),
    Refilled(Vec<Refilled>),
    /// A rank for an agent; none for a link of another broker's; nothing for who may not come in.
    LetIn(Hello, Option<Option<Rank>>),
    Router(RouterReply),
}

#[derive(Clone)]
pub(crate) struct Refilled {
    pub(crate) inbox: Arc<str>,
    pub(crate) lanes: Vec<LaneRows>,
    pub(crate) keys: Vec<KeyRows>,
}

/// By its ids: bodies are large.
impl std::fmt::Debug for Refilled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = self.lanes.iter().flat_map(|lane| &lane.rows);
        let ids: Vec<i64> =
            rows.chain(self.keys.iter().flat_map(|key| &key.rows)).map(|e| e.attempt.delivery_id.0).collect();
        write!(f, "{} {ids:?}", self.inbox)
    }
}

impl World {
    /// Sends a statement, which is answered once, by an error at `limit` at the latest; returns its number.
    pub(crate) fn ask(&mut self, b: usize, task: Task, ask: Ask, limit: Micros) -> u64 {
        self.last_query += 1;
        let (broker, life) = (b, self.brokers[b].life);
        let query = Query { task, number: self.last_query };
        let there = self.now + self.rng.random_range(50..600);
        let back = there + self.rng.random_range(50..600);
        let given_up = self.now + limit;
        let error = (To::Broker(b, life), What::Answer(query, Err(())));
        let down = self.is_faulty(|fault| *fault == Fault::DatabaseDown);
        let trouble = self.is_faulty(|fault| matches!(fault, Fault::DatabaseLink(x) if *x == b));
        let (there, answer) = match self.rng.random_range(0..10) {
            _ if down => {
                self.schedule.at(back, error);
                return self.last_query;
            }
            _ if !trouble => (there, Some(back)),
            // Lost before: at once, or without a word.
            0 => (Micros::MAX, None),
            1 => {
                self.schedule.at(back, error);
                return self.last_query;
            }
            // Carried out, and the answer lost.
            2 | 3 => (there, None),
            4 => {
                self.schedule.at(back, error.clone());
                (there, None)
            }
            // Late, on the way there or on the way back, also after it was given up.
            5 => {
                let there = self.now + self.rng.random_range(0..6 * SECOND);
                (there, Some(there + 300).filter(|at| *at < given_up))
            }
            6 => {
                let back = there + self.rng.random_range(0..limit + SECOND);
                (there, Some(back).filter(|at| *at < given_up))
            }
            _ => (there, Some(back)),
        };
        if there < Micros::MAX {
            let execute = What::Execute { broker, life, query, ask, answer };
            self.schedule.at(there, (To::World, execute));
        }
        // A statement of the router's takes its time.
        if answer.is_none() || task == Task::Router {
            self.schedule.at(given_up, error);
        }
        self.last_query
    }

    /// At the server.
    pub(crate) fn execute(&mut self, b: usize, life: u32, query: Query, ask: Ask) -> Reply {
        let now = self.database_now();
        let is_there = self.brokers[b].life == life;
        // A process that is gone had sent statements: they are carried out, under the name that it had.
        let id = if is_there { self.brokers[b].id } else { self.brokers[b].id_before };
        match ask {
            Ask::Connect => Reply::Snapshot(self.database.snapshot()),
            Ask::Renew(connection) => {
                let lives = is_there && self.brokers[b].leaser.connection == connection;
                let is_new = !self.database.brokers.contains_key(&id);
                let renewed = self.database.renew(now, id, b, lives.then_some(connection));
                if is_there {
                    // Nobody rang for it; its canary may be back before this answer.
                    self.check.unannounced[b] |= renewed.lapsed && !is_new;
                    self.notify(b, What::Canary(query.number));
                }
                Reply::Renewed(renewed)
            }
            Ask::Acquire(inboxes, refusing) => {
                Reply::Acquired(self.database.acquire(now, id, &inboxes, &refusing))
            }
            Ask::Release(inboxes) => {
                self.database.release(id, &inboxes);
                Reply::Done
            }
            Ask::Want(inboxes) => {
                self.database.want(now, id, &inboxes);
                Reply::Done
            }
            Ask::Arm(armed) => {
                self.database.arm(now, id, armed);
                Reply::Done
            }
            Ask::Tail(before) => Reply::Rows(self.database.tail(&before, id), self.database.snapshot()),
            Ask::Refill(refills) => Reply::Refilled(refills.iter().map(|r| self.read(r)).collect()),
            Ask::Settle(settles) => {
                self.check_settles((b, life), &settles);
                self.database.settle(now, &settles);
                self.outcomes_ring(b, &settles);
                Reply::Done
            }
            Ask::LetIn(hello) => {
                let rank = match hello.broker {
                    None => Some(Some(self.rank(b, query.number))),
                    // broker_authenticate.sql: a broker that was forgotten has no credential.
                    Some((broker, rank)) => self.database.brokers.contains_key(&broker).then_some(rank),
                };
                Reply::LetIn(hello, rank)
            }
            Ask::Router(..) => unreachable!("it takes its time"),
        }
    }

    fn read(&self, refill: &Refill) -> Refilled {
        let seen = Seen::parse(&refill.snapshot.0);
        let is_passed = |row: &Row| row.key.as_ref().is_some_and(|key| refill.passed.contains(key));
        let lane = |lane: usize, above: i64, asked: usize| {
            let its = self.database.ready(&refill.inbox, above, &seen);
            let its = its.filter(|(_, row)| row.lane == lane && !is_passed(row)).take(asked);
            LaneRows { lane, asked, rows: its.map(|(id, row)| self.entry(id, row)).collect() }
        };
        let key = |key: &Arc<str>, above: i64, asked: usize| -> KeyRows {
            let its = self.database.ready(&refill.inbox, above, &seen);
            let its = its.filter(|(_, row)| row.key.as_ref() == Some(key)).take(asked);
            KeyRows { key: key.clone(), asked, rows: its.map(|(id, row)| self.entry(id, row)).collect() }
        };
        Refilled {
            inbox: refill.inbox.clone(),
            lanes: refill.lanes.iter().map(|l| lane(l.lane, l.above.0, l.rows)).collect(),
            keys: refill.keys.iter().map(|k| key(&k.key, k.above.0, k.rows)).collect(),
        }
    }

    pub(crate) fn entry(&self, id: i64, row: &Row) -> Entry {
        let priority = Priority::new(row.lane as i64);
        let terms = Terms {
            ordering_key: row.key.clone(),
            priority: priority.unwrap_or_default(),
            in_company: row.in_company,
            ..Terms::default()
        };
        Entry {
            attempt: Attempt { delivery_id: DeliveryId(id), failed: row.attempt },
            message_id: Uuid::from_u128(id as u128),
            lane: row.lane,
            read_at: self.instant(),
            age_when_read: Duration::from_micros(MS),
            ready_when_read: Duration::ZERO,
            expires_at: None,
            terms: (terms != Terms::default()).then(|| Box::new(terms)),
            body: Some(BODY.slice(..row.bytes)),
        }
    }

    /// The rows of a tail that are ready.
    pub(crate) fn arrivals(&self, rows: &[(i64, Row)]) -> Vec<(Arc<str>, Entry)> {
        let ready = rows.iter().filter(|(_, row)| row.state == State::Ready);
        ready.map(|(id, row)| (row.inbox.clone(), self.entry(*id, row))).collect()
    }
}
