//! The database's other half: the brokers' rows and the leases of inboxes.

use std::collections::BTreeSet;
use std::sync::Arc;

use postbell_engine::inbox::Epoch;
use postbell_engine::inbox::event::Owner;
use uuid::Uuid;

use crate::database::Database;
use crate::plants::Plant;
use crate::schedule::{Micros, SECOND};

/// As in src/store/lease.rs.
pub(crate) const LEASE: Micros = 3 * SECOND;
pub(crate) const RENEW_EVERY: Micros = SECOND;
const FORGET_AFTER: Micros = 10 * SECOND;

#[derive(Clone, Debug)]
pub(crate) struct BrokerRow {
    /// Where it listens.
    pub(crate) address: usize,
    pub(crate) lease_until: Micros,
    armed: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Lease {
    pub(crate) broker: Uuid,
    pub(crate) epoch: Epoch,
    wanted_until: Micros,
}

/// The answer to a renewal.
#[derive(Clone, Debug)]
pub(crate) struct Renewed {
    pub(crate) lapsed: bool,
    pub(crate) is_known_alive: bool,
    pub(crate) wanted: Vec<Arc<str>>,
    /// The router's row names a broker that does not live, or this one.
    pub(crate) is_orphaned: bool,
}

/// As in src/store/lease.rs.
#[derive(Clone, Debug)]
pub(crate) enum InboxAnswer {
    Ours(Epoch),
    Theirs(Option<Owner>),
}

pub(crate) fn address(index: usize) -> Arc<str> {
    format!("broker-{index}").into()
}

impl Database {
    /// broker_renew.sql. `connection`: the one that takes the lock of the living, if it can.
    pub(crate) fn renew(
        &mut self,
        now: Micros,
        broker: Uuid,
        address: usize,
        connection: Option<u64>,
    ) -> Renewed {
        let prior = self.brokers.get(&broker).map(|row| row.lease_until);
        let row = self.brokers.entry(broker).or_insert(BrokerRow { address, lease_until: 0, armed: false });
        row.lease_until = now + LEASE;
        if row.armed {
            self.bell_until = self.bell_until.max(row.lease_until.next_multiple_of(SECOND));
        }
        let is_known_alive = connection.is_some_and(|c| *self.alive.entry(broker).or_insert(c) == c);
        let is_wanted = |lease: &Lease| lease.broker == broker && lease.wanted_until > now;
        let wanted = self.leases.iter().filter(|(_, lease)| is_wanted(lease)).map(|(inbox, _)| inbox.clone());
        let lives = |id: &Uuid| self.brokers.get(id).is_some_and(|row| row.lease_until > now);
        let is_own = |router: Uuid| router == broker && self.plant != Some(Plant::OwnRowNotSeen);
        let is_orphaned = self.messages.router.broker.is_some_and(|router| !lives(&router) || is_own(router));
        let lapsed = prior.is_none_or(|until| until < now);
        Renewed { lapsed, is_known_alive, wanted: wanted.collect(), is_orphaned }
    }

    /// lease_acquire.sql.
    pub(crate) fn acquire(
        &mut self,
        now: Micros,
        broker: Uuid,
        inboxes: &[Arc<str>],
        refusing: &BTreeSet<Uuid>,
    ) -> Vec<(Arc<str>, InboxAnswer)> {
        let take = |inbox: &Arc<str>| {
            self.last_epoch += 1;
            let epoch = Epoch(self.last_epoch);
            let lives = |owner: &Uuid| {
                let is_gone = refusing.contains(owner) && !self.alive.contains_key(owner);
                self.brokers.get(owner).is_some_and(|row| row.lease_until > now) && !is_gone
            };
            let new = Lease { broker, epoch, wanted_until: 0 };
            let lease = self.leases.entry(inbox.clone()).or_insert(new.clone());
            let keeps_epoch = self.plant == Some(Plant::EpochNotCompared);
            if lease.broker == broker {
                lease.wanted_until = 0;
            } else if !lives(&lease.broker) {
                *lease = Lease { epoch: if keeps_epoch { lease.epoch } else { epoch }, ..new };
            }
            let acquired = if lease.broker == broker {
                InboxAnswer::Ours(lease.epoch)
            } else {
                let owner = |row: &BrokerRow| Owner {
                    broker: lease.broker,
                    address: address(row.address),
                    certificate: None,
                };
                InboxAnswer::Theirs(self.brokers.get(&lease.broker).map(owner))
            };
            (inbox.clone(), acquired)
        };
        inboxes.iter().map(take).collect()
    }

    /// lease_release.sql.
    pub(crate) fn release(&mut self, broker: Uuid, given: &[(Arc<str>, Epoch)]) {
        let any_epoch = self.plant == Some(Plant::AnyEpochReleased);
        let is_given =
            |inbox: &Arc<str>, epoch| given.iter().any(|(i, e)| i == inbox && (*e == epoch || any_epoch));
        self.leases.retain(|inbox, lease| lease.broker != broker || !is_given(inbox, lease.epoch));
    }

    /// lease_want.sql.
    pub(crate) fn want(&mut self, now: Micros, broker: Uuid, inboxes: &[Arc<str>]) {
        for (inbox, lease) in &mut self.leases {
            if lease.broker != broker && inboxes.contains(inbox) {
                lease.wanted_until = now + 3 * SECOND;
            }
        }
    }

    /// postbell.arm: the bell rings until the last lease of an armed broker ends.
    pub(crate) fn arm(&mut self, now: Micros, broker: Uuid, armed: bool) {
        if let Some(row) = self.brokers.get_mut(&broker) {
            row.armed = armed;
        }
        let armed = self.brokers.values().filter(|row| row.armed && row.lease_until > now);
        self.bell_until =
            armed.map(|row| row.lease_until).max().map_or(0, |until| until.next_multiple_of(SECOND));
    }

    /// broker_sweep.sql.
    pub(crate) fn sweep(&mut self, now: Micros, by: Uuid) {
        let gone = |id: &Uuid, row: &BrokerRow| row.lease_until + FORGET_AFTER < now && *id != by;
        let ids: Vec<Uuid> =
            self.brokers.iter().filter(|(id, row)| gone(id, row)).map(|(id, _)| *id).collect();
        for id in ids {
            self.brokers.remove(&id);
            self.leases.retain(|_, lease| lease.broker != id);
        }
    }
}
