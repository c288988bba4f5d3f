//! The settler and the refiller, as src/pipeline/settler.rs and refiller.rs have them.

use std::collections::{BTreeMap, VecDeque};

use postbell_engine::inbox::event::{Event, Outcome, Refill, Settle};

use crate::plants::Plant;
use crate::schedule::{MS, Micros, SECOND};
use crate::statements::{Ask, Reply, STATEMENT_WAIT, Task};
use crate::world::{What, World};

const RECONNECT_FIRST: Micros = 100 * MS;
const RECONNECT_MAX: Micros = 2 * SECOND;
const SETTLE_EVERY: Micros = 5 * MS;
const PAUSE_AFTER_FAILURE: Micros = 250 * MS;

/// Writes outcomes, a statement a kind, and tries until they are written.
#[derive(Default)]
pub(crate) struct Settler {
    pub(crate) waiting: Vec<Settle>,
    kinds: VecDeque<Vec<Settle>>,
    query: Option<u64>,
    not_before: Micros,
    tries: u32,
}

/// Reads on in the table, one statement for all that ask at once.
#[derive(Default)]
pub(crate) struct Refiller {
    pub(crate) waiting: Vec<Refill>,
    reading: Vec<Refill>,
    query: Option<u64>,
    failed_until: Option<Micros>,
}

fn kind(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Ack { .. } => 0,
        Outcome::Release { .. } | Outcome::Fail { .. } | Outcome::Spare { .. } | Outcome::Unseen { .. } => 1,
        Outcome::Relane { .. } => 2,
        Outcome::Dead { .. } => 3,
        Outcome::Expired => 4,
    }
}

/// src/pipeline/settler.rs has the same.
pub(crate) fn is_in_the_tail_again(outcome: &Outcome, delay_wakes: bool) -> bool {
    match outcome {
        Outcome::Release { delay } | Outcome::Fail { delay, .. } | Outcome::Unseen { delay } => {
            delay.is_zero() || delay_wakes
        }
        Outcome::Spare { .. } | Outcome::Relane { .. } => true,
        Outcome::Ack { .. } | Outcome::Dead { .. } | Outcome::Expired => false,
    }
}

impl World {
    pub(crate) fn settler_due(&mut self, b: usize) {
        let now = self.now;
        let settler = &mut self.brokers[b].settler;
        if settler.query.is_some() || settler.not_before > now {
            return;
        }
        if settler.kinds.is_empty() {
            if settler.waiting.is_empty() {
                return;
            }
            let mut kinds: BTreeMap<u8, Vec<Settle>> = BTreeMap::new();
            for settle in std::mem::take(&mut settler.waiting) {
                kinds.entry(kind(&settle.outcome)).or_default().push(settle);
            }
            settler.kinds = kinds.into_values().collect();
        }
        let Some(batch) = settler.kinds.front().cloned() else { return };
        let query = self.ask(b, Task::Settler, Ask::Settle(batch), STATEMENT_WAIT);
        self.brokers[b].settler.query = Some(query);
    }

    pub(crate) fn settler_answered(&mut self, b: usize, number: u64, reply: Result<Reply, ()>) {
        let now = self.now;
        if self.brokers[b].settler.query != Some(number) {
            return;
        }
        self.brokers[b].settler.query = None;
        if reply.is_err() {
            let mut tries = self.brokers[b].settler.tries;
            let wait = self.pace(RECONNECT_FIRST, RECONNECT_MAX, &mut tries);
            let settler = &mut self.brokers[b].settler;
            (settler.tries, settler.not_before) = (tries, now + wait);
            return self.plan_for(b, now + wait, What::SettlerDue);
        }
        let settler = &mut self.brokers[b].settler;
        settler.tries = 0;
        let Some(batch) = settler.kinds.pop_front() else { return };
        if settler.kinds.is_empty() && batch.iter().all(|s| s.answer.is_none()) {
            settler.not_before = now + SETTLE_EVERY;
            self.plan_for(b, now + SETTLE_EVERY, What::SettlerDue);
        }
        let delay_wakes = Plant::delay_wakes(self.plant);
        if batch.iter().any(|s| is_in_the_tail_again(&s.outcome, delay_wakes)) {
            self.brokers[b].tail.wake = true;
        }
        self.tell(b, Event::Settled(batch));
    }

    pub(crate) fn refiller_due(&mut self, b: usize) {
        let now = self.now;
        let refiller = &mut self.brokers[b].refiller;
        if refiller.failed_until.is_some_and(|at| at <= now) {
            refiller.failed_until = None;
            for refill in std::mem::take(&mut refiller.reading) {
                self.tell(b, Event::RefillFailed(refill.inbox));
            }
        }
        let refiller = &mut self.brokers[b].refiller;
        if refiller.query.is_some() || refiller.failed_until.is_some() || refiller.waiting.is_empty() {
            return;
        }
        refiller.reading = std::mem::take(&mut refiller.waiting);
        let ask = Ask::Refill(refiller.reading.clone());
        let query = self.ask(b, Task::Refiller, ask, STATEMENT_WAIT);
        self.brokers[b].refiller.query = Some(query);
    }

    pub(crate) fn refiller_answered(&mut self, b: usize, number: u64, reply: Result<Reply, ()>) {
        let refiller = &mut self.brokers[b].refiller;
        if refiller.query != Some(number) {
            return;
        }
        refiller.query = None;
        if let Ok(Reply::Refilled(all)) = reply {
            refiller.reading.clear();
            for refilled in all {
                let (inbox, lanes, keys) = (refilled.inbox, refilled.lanes, refilled.keys);
                self.tell(b, Event::Refilled { inbox, lanes, keys });
            }
        } else {
            let until = self.now + PAUSE_AFTER_FAILURE;
            refiller.failed_until = Some(until);
            self.plan_for(b, until, What::RefillerDue);
        }
    }
}
