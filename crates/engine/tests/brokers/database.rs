//! The database: deliveries with the transaction that made each ready, snapshots, and what a refill and an outcome do.
//!
//! A statement is one moment. A producer's transaction takes its id at the insert and is visible from its commit on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postbell_engine::inbox::dispatcher::IN_COMPANY;
use postbell_engine::inbox::event::{Outcome, Settle, Snapshot};
use uuid::Uuid;

use crate::leases::{BrokerRow, LEASE, Lease};
use crate::messages::Messages;
use crate::plants::Plant;
use crate::schedule::{MS, Micros, SECOND};

/// The sight of a statement: transactions below `xmax` but those in progress.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) xmax: u64,
    pub(crate) in_progress: BTreeSet<u64>,
}

impl Seen {
    pub(crate) fn shows(&self, txid: u64) -> bool {
        txid < self.xmax && !self.in_progress.contains(&txid)
    }

    pub(crate) fn text(&self) -> Snapshot {
        let list: Vec<String> = self.in_progress.iter().map(u64::to_string).collect();
        format!("{}:{}", self.xmax, list.join(",")).as_str().into()
    }

    pub(crate) fn parse(text: &str) -> Self {
        let (xmax, list) = text.split_once(':').expect("xmax:list");
        let number = |s: &str| s.parse().expect("a number");
        let in_progress = list.split(',').filter(|s| !s.is_empty()).map(number).collect();
        Self { xmax: number(xmax), in_progress }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Scheduled(Micros),
    Dead,
}

#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) inbox: Arc<str>,
    pub(crate) lane: usize,
    pub(crate) key: Option<Arc<str>>,
    pub(crate) bytes: usize,
    pub(crate) attempt: u32,
    pub(crate) in_company: bool,
    pub(crate) state: State,
    pub(crate) txid: u64,
    /// The message that it delivers, in a case with a router.
    pub(crate) message: i64,
}

/// Nothing is scheduled for later, unless the clock has stepped since.
const SCHEDULED_MAX: Micros = 2 * SECOND;

/// See the module.
pub(crate) struct Database {
    pub(crate) rows: BTreeMap<i64, Row>,
    /// Inserted, not committed.
    open: BTreeMap<u64, (i64, Row)>,
    pub(crate) last_id: i64,
    next_txid: u64,
    /// `postbell.bell`: producers ring until then.
    pub(crate) bell_until: Micros,
    pub(crate) brokers: BTreeMap<Uuid, BrokerRow>,
    pub(crate) leases: BTreeMap<Arc<str>, Lease>,
    pub(crate) last_epoch: i64,
    /// The lock that says that a broker's process lives, and the connection that holds it.
    pub(crate) alive: BTreeMap<Uuid, u64>,
    /// Attempts whose failure was counted.
    counted: BTreeSet<(i64, u32)>,
    /// Outcomes that changed nothing, since the row was another attempt's or gone.
    pub(crate) missed: BTreeSet<i64>,
    pub(crate) messages: Messages,
    pub(crate) plant: Option<Plant>,
    /// Faults: steps that must not be, and were.
    pub(crate) broken: Option<String>,
}

impl Database {
    pub(crate) fn new(plant: Option<Plant>) -> Self {
        Self {
            rows: BTreeMap::new(),
            open: BTreeMap::new(),
            last_id: 0,
            next_txid: 10,
            bell_until: 0,
            brokers: BTreeMap::new(),
            leases: BTreeMap::new(),
            last_epoch: 0,
            alive: BTreeMap::new(),
            counted: BTreeSet::new(),
            missed: BTreeSet::new(),
            messages: Messages::default(),
            plant,
            broken: None,
        }
    }

    /// A producer's insert (triggers/route.sql): its transaction, its row, and whether it rings at its commit.
    pub(crate) fn insert(&mut self, now: Micros, row: Row) -> (u64, i64, bool) {
        let txid = self.take_txid();
        self.last_id += 1;
        self.open.insert(txid, (self.last_id, Row { txid, ..row }));
        (txid, self.last_id, self.bell_until > now)
    }

    pub(crate) fn commit(&mut self, txid: u64) {
        if let Some((id, row)) = self.open.remove(&txid) {
            self.rows.insert(id, row);
        }
    }

    pub(crate) fn roll_back(&mut self, txid: u64) {
        self.open.remove(&txid);
    }

    pub(crate) fn take_txid(&mut self) -> u64 {
        self.next_txid += 1;
        self.next_txid - 1
    }

    pub(crate) fn snapshot(&self) -> Seen {
        let open = self.open.keys().chain(&self.messages.running);
        Seen { xmax: self.next_txid, in_progress: open.copied().collect() }
    }

    /// tail.sql: what became ready since `before`, of the inboxes that are this broker's; the scheduled count as rows.
    pub(crate) fn tail(&self, before: &Seen, broker: Uuid) -> Vec<(i64, Row)> {
        let is_new = |row: &Row| row.txid >= before.xmax || before.in_progress.contains(&row.txid);
        let is_its = |row: &Row| self.leases.get(&row.inbox).is_some_and(|lease| lease.broker == broker);
        let new = self.rows.iter().filter(|(_, row)| row.state != State::Dead && is_new(row) && is_its(row));
        new.map(|(id, row)| (*id, row.clone())).collect()
    }

    /// refill.sql and refill_key.sql: ready, above an id, and visible in what the tail has brought.
    pub(crate) fn ready<'a>(
        &'a self,
        inbox: &'a Arc<str>,
        above: i64,
        seen: &'a Seen,
    ) -> impl Iterator<Item = (i64, &'a Row)> {
        self.rows
            .range(above + 1..)
            .filter(move |(_, row)| row.inbox == *inbox && row.state == State::Ready && seen.shows(row.txid))
            .map(|(id, row)| (*id, row))
    }

    /// settle_*.sql: each outcome is compared with its attempt.
    pub(crate) fn settle(&mut self, now: Micros, settles: &[Settle]) {
        let txid = self.take_txid();
        let any_attempt = self.plant == Some(Plant::AttemptNotCompared);
        for settle in settles {
            let (id, failed) = (settle.attempt.delivery_id.0, settle.attempt.failed);
            let is_it = |row: &Row| row.attempt == failed || any_attempt;
            let row = self.rows.get_mut(&id).filter(|row| is_it(row) && row.state != State::Dead);
            let Some(row) = row else {
                self.missed.insert(id);
                continue;
            };
            let was_scheduled = matches!(row.state, State::Scheduled(_));
            let mut again = |added: u32, delay: Micros| {
                row.attempt += added;
                row.txid = txid;
                row.state = if delay == 0 { State::Ready } else { State::Scheduled(now + delay) };
            };
            match &settle.outcome {
                Outcome::Ack { .. } | Outcome::Expired => {
                    self.messages.is_settled(row.message);
                    self.rows.remove(&id);
                }
                Outcome::Relane { .. } => {}
                Outcome::Dead { .. } => row.state = State::Dead,
                // settle_retry.sql: what waits for its time already is left alone.
                _ if was_scheduled => {
                    self.missed.insert(id);
                }
                Outcome::Release { delay } | Outcome::Unseen { delay } => again(0, micros(*delay)),
                Outcome::Spare { .. } => {
                    again(0, 0);
                    row.in_company = true;
                }
                Outcome::Fail { delay, reason, .. } => {
                    again(1, micros(*delay));
                    row.in_company = reason.starts_with(IN_COMPANY);
                    if !self.counted.insert((id, failed)) {
                        self.broken = Some(format!("attempt {failed} at {id} was counted twice"));
                    }
                }
            }
        }
    }

    /// due_promote.sql: the inboxes of those that became ready, and when the next is due.
    pub(crate) fn promote(&mut self, now: Micros) -> (Vec<Arc<str>>, Option<Micros>) {
        let txid = self.take_txid();
        let (mut promoted, mut next) = (Vec::new(), None);
        for row in self.rows.values_mut() {
            let State::Scheduled(at) = row.state else { continue };
            if at <= now {
                (row.state, row.txid) = (State::Ready, txid);
                promoted.push(row.inbox.clone());
            } else {
                next = next.into_iter().chain([at]).min();
            }
        }
        (promoted, next)
    }

    /// Deliveries that are neither gone nor dead, or may still come; without those that a jump of the clock back has put off: scheduled
    /// ones, and the inboxes of a broker that died before it renewed its lease by the new time.
    pub(crate) fn undelivered(&self, now: Micros) -> Vec<i64> {
        let is_put_off = |row: &Row| {
            let owner = self.leases.get(&row.inbox).and_then(|lease| self.brokers.get(&lease.broker));
            matches!(row.state, State::Scheduled(at) if at > now + SCHEDULED_MAX)
                || owner.is_some_and(|broker| broker.lease_until > now + LEASE)
        };
        let waits = |row: &Row| row.state != State::Dead && !is_put_off(row);
        let waiting = self.rows.iter().filter(|(_, row)| waits(row)).map(|(id, _)| *id);
        waiting.chain(self.open.values().map(|(id, _)| *id)).collect()
    }
}

/// In whole milliseconds, as the statement takes it.
fn micros(delay: std::time::Duration) -> Micros {
    delay.as_millis() as Micros * MS
}
