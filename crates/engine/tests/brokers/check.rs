//! The promises that hold after each step, and in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postbell_engine::inbox::SessionId;
use postbell_engine::inbox::event::{DeadCause, Outcome, Push, Settle};

use crate::agent::Place;
use crate::broker::ATTEMPTS_MAX;
use crate::database::{Row, State};
use crate::plants::Plant;
use crate::schedule::{Micros, SECOND};
use crate::world::{What, World};
use crate::writers::is_in_the_tail_again;

/// One in so many pushes of an inbox takes the oldest delivery, whatever its priority.
const OLDEST_EVERY: u64 = 16;
/// Nobody who wants in is out for longer, whatever happens meanwhile.
const OUT_MAX: Micros = 32 * SECOND;

/// An inbox, a lane, an ordering key.
type Terms = (Arc<str>, usize, Option<Arc<str>>);

/// The pushes of an inbox, and which of them was the last out of turn.
type Turns = (u64, Option<u64>);

/// The steps that were seen.
#[derive(Default)]
pub(crate) struct Check {
    pub(crate) terms: BTreeMap<i64, Terms>,
    /// Agents said so.
    pub(crate) handled: BTreeSet<i64>,
    pub(crate) rejected: BTreeSet<i64>,
    pushed: BTreeSet<i64>,
    /// By broker: something was made ready for it by another one, or by itself without its knowing.
    pub(crate) unannounced: [bool; 2],
    /// Which broker's process wrote a delivery's last outcome.
    changed_by: BTreeMap<i64, (usize, u32)>,
    /// By broker's process: the attempts of which it has written an outcome.
    written: BTreeSet<((usize, u32), i64, u32)>,
    /// By broker's process and inbox: its pushes, and which of them was the last that took the oldest.
    turns: BTreeMap<(usize, u32, Arc<str>), Turns>,
}

impl Check {
    /// Somebody else has removed it: its broker may still push it.
    pub(crate) fn is_gone(&mut self, delivery: i64) {
        self.changed_by.remove(&delivery);
    }
}

impl World {
    /// Before an outcome is written: its agent said so, or it was tried often enough.
    pub(crate) fn check_settles(&mut self, by: (usize, u32), settles: &[Settle]) {
        for settle in settles {
            let (id, failed) = (settle.attempt.delivery_id.0, settle.attempt.failed);
            let row = self.database.rows.get(&id).filter(|row| row.attempt == failed);
            let is_said = match &settle.outcome {
                Outcome::Ack { .. } => self.check.handled.contains(&id),
                Outcome::Dead { cause: DeadCause::Rejected, .. } => self.check.rejected.contains(&id),
                Outcome::Dead { .. } => row.is_none_or(|row| row.attempt + 1 >= ATTEMPTS_MAX),
                _ => true,
            };
            // An outcome is written twice where the first answer was lost; the tail may have brought the first in between.
            if row.is_some() && self.check.written.insert((by, id, failed)) {
                self.check.changed_by.insert(id, by);
            } else {
                self.check.changed_by.remove(&id);
            }
            if !is_said {
                return self.fail(format!("{settle:?}: no agent said so"));
            }
        }
    }

    /// An outcome wakes the tail of the broker that writes it. Where the inbox is another's by now, it rings, if anybody sleeps.
    /// A broker that does not know that it was written finds the row in its safety round.
    pub(crate) fn outcomes_ring(&mut self, b: usize, settles: &[Settle]) {
        let is_again = |settle: &&Settle| is_in_the_tail_again(&settle.outcome, true);
        let owner = |settle: &Settle| self.database.leases.get(&settle.inbox).map(|lease| lease.broker);
        let owners: Vec<_> = settles.iter().filter(is_again).map(owner).collect();
        let id = self.brokers[b].id;
        let rings = owners.iter().any(|owner| owner.is_some_and(|owner| owner != id));
        if rings && self.database.bell_until > self.database_now() {
            (0..2).for_each(|b| self.notify(b, What::Ring));
        }
        if owners.contains(&Some(id)) && self.is_faulty(|fault| fault.parts_from_database(b)) {
            self.check.unannounced[b] = true;
        }
    }

    /// A broker may promote a delivery of the other's inbox, so a promotion rings.
    pub(crate) fn promotes(&mut self, inboxes: &[Arc<str>]) {
        let rings = Plant::promotion_rings(self.plant) && self.database.bell_until > self.database_now();
        if rings && !inboxes.is_empty() {
            (0..2).for_each(|b| self.notify(b, What::Ring));
        }
    }

    /// The turn of the oldest is counted anew.
    pub(crate) fn forget_turns(&mut self, b: usize, inbox: &Arc<str>) {
        self.check.turns.remove(&(b, self.brokers[b].life, inbox.clone()));
    }

    pub(crate) fn check_push(&mut self, b: usize, id: SessionId, push: &Push) {
        let (delivery, attempt) = (push.attempt.delivery_id.0, push.attempt.failed);
        let broker = &self.brokers[b];
        let Some(session) = broker.sessions.get(&id) else { return };
        let Some((inbox, lane, key)) = self.check.terms.get(&delivery).cloned() else { return };
        let says =
            |what: &str| Some(format!("broker {b} pushes {delivery} of {inbox} to session {id}: {what}"));
        let lease = self.database.leases.get(&inbox);
        let lease_is_its = lease.is_some_and(|lease| lease.broker == broker.id);
        let others = || broker.sessions.values().flat_map(|s| s.has.values());
        let key_of = |(other, _): &(i64, u32)| {
            self.check.terms.get(other).map(|(inbox, _, key)| (inbox.clone(), key.clone()))
        };
        let row = self.database.rows.get(&delivery);
        let is_stale = row.is_none_or(|row| row.attempt != attempt || row.state != State::Ready);
        let wrong = if lease.is_some_and(|lease| lease.broker != broker.id) && !self.may_have_two_owners() {
            says("the inbox is another broker's")
        } else if session.inbox != inbox {
            says("it is another inbox's")
        } else if session.is_closing {
            says("the session was told to end")
        } else if session.has.len() >= session.window as usize {
            says("it has no room in its window")
        } else if others().any(|has| *has == (delivery, attempt)) {
            says("it is in flight already")
        } else if key.is_some() && others().any(|has| key_of(has) == Some((inbox.clone(), key.clone()))) {
            says("another with its key is in flight")
        // Another owner may have given it back, and this one's tail has brought it again.
        } else if is_stale
            && !self.may_have_two_owners()
            && self.check.changed_by.get(&delivery) == Some(&(b, broker.life))
        {
            says("this broker has settled it")
        // Who has lost the inbox and does not know it is brought no more of it.
        } else if lease_is_its
            && let Some(before) = self.is_overtaken(b, delivery, &inbox, lane, key.is_some())
        {
            says(&format!("{before} has the same priority and is older"))
        } else {
            self.check_turn(b, &inbox, lane).filter(|_| lease_is_its).and_then(|before| {
                says(&format!("{before} is more urgent, and it was not the turn of the oldest"))
            })
        };
        self.check.pushed.insert(delivery);
        if let Some(wrong) = wrong {
            self.fail(wrong);
        }
    }

    /// Whether a delivery waits in sight of the tail that nobody has ever had.
    fn waits(&self, b: usize, id: i64, row: &Row) -> bool {
        let is_seen = self.brokers[b].tail.cursor.as_ref().is_some_and(|seen| seen.shows(row.txid));
        let is_fresh = row.key.is_none() && row.attempt == 0 && row.state == State::Ready;
        is_seen && is_fresh && !self.check.pushed.contains(&id)
    }

    fn is_overtaken(&self, b: usize, id: i64, inbox: &Arc<str>, lane: usize, has_key: bool) -> Option<i64> {
        let before = self.database.rows.range(..id);
        let mut before = before.filter(|(_, row)| row.inbox == *inbox && row.lane == lane);
        before.find(|(id, row)| !has_key && self.waits(b, **id, row)).map(|(id, _)| *id)
    }

    /// Out of turn once in [`OLDEST_EVERY`] at most.
    fn check_turn(&mut self, b: usize, inbox: &Arc<str>, lane: usize) -> Option<i64> {
        let urgent = self
            .database
            .rows
            .iter()
            .find(|(id, row)| row.inbox == *inbox && row.lane < lane && self.waits(b, **id, row));
        let urgent = urgent.map(|(id, _)| *id);
        let life = self.brokers[b].life;
        let (pushes, last) = self.check.turns.entry((b, life, inbox.clone())).or_default();
        *pushes += 1;
        let urgent = urgent?;
        let is_turn = last.is_none_or(|last| *pushes - last >= OLDEST_EVERY);
        *last = Some(*pushes);
        (!is_turn).then_some(urgent)
    }

    /// A confirmed ack is in the table.
    pub(crate) fn check_acked(&mut self, b: usize, reference: &str) {
        for id in self.brokers[b].references.remove(reference).unwrap_or_default() {
            if self.database.rows.contains_key(&id) && !self.database.missed.contains(&id) {
                self.fail(format!("the ack of {id} was confirmed before it was written"));
            }
        }
    }

    pub(crate) fn check_broker(&mut self, b: usize) {
        if let Err(state) = self.brokers[b].dispatcher.check() {
            return self.fail(format!("broker {b}: {state}"));
        }
        let check = &self.check;
        let may_be_late = check.unannounced[b];
        let broker = &self.brokers[b];
        if let Some(late) =
            broker.tail.bell.as_ref().map(|bell| bell.late()).filter(|late| *late > 0 && !may_be_late)
        {
            return self.fail(format!("broker {b} found {late} deliveries that the bell had not announced"));
        }
        let now = self.now;
        let is_out =
            |a: &&crate::agent::Agent| !matches!(a.place, Place::In(_)) && a.out_since + OUT_MAX < now;
        if let Some(agent) = self.agents.iter().position(|agent| is_out(&agent)) {
            self.fail(format!("agent {agent} has wanted in for {} s", OUT_MAX / SECOND));
        }
    }

    pub(crate) fn has_drained(&self) -> bool {
        self.database.undelivered(self.database_now()).is_empty()
            && self.has_routed()
            && self.agents.iter().all(|agent| matches!(agent.place, Place::In(_)))
            && self.brokers.iter().all(|b| (b.dispatcher.in_flight(), b.dispatcher.unsettled()) == (0, 0))
    }

    pub(crate) fn why_not_drained(&self) -> Result<(), String> {
        if self.has_drained() {
            return Ok(());
        }
        let waiting = self.database.undelivered(self.database_now());
        let out = self.agents.iter().filter(|agent| !matches!(agent.place, Place::In(_))).count();
        let rows = waiting.iter().filter_map(|id| Some((id, self.database.rows.get(id)?)));
        let rows: Vec<String> = rows
            .map(|(id, row)| format!("{id} of {} {:?} attempt {}", row.inbox, row.state, row.attempt))
            .collect();
        let leases = &self.database.leases;
        if !self.has_routed() {
            let (unrouted, router) = (self.unrouted(), &self.database.messages.router);
            return Err(format!("after the last fault {unrouted:?} are not routed; {router:?}"));
        }
        Err(format!("after the last fault {rows:?} still wait, {out} agents are out; leases {leases:?}"))
    }
}
