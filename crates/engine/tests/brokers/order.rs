//! The promises of the router: each message once for each recipient, in an order that nobody sees broken, and nothing is left
//! behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::asks::{RouterEpoch, Until};
use crate::database::Row;
use crate::leases::LEASE;
use crate::messages::{Moment, PROBED};
use crate::plants::Plant;
use crate::schedule::{Micros, SECOND};
use crate::world::World;

/// A router is silent for so long after the end of a fault at most.
const FAULTY_FOR: Micros = 8 * SECOND;

/// The deliveries that were seen.
#[derive(Debug, Default)]
pub(crate) struct Order {
    made: BTreeMap<(i64, Arc<str>), i64>,
    /// In this epoch a router has failed, and no round of a later one has had rows left behind others.
    pub(crate) stopped: Option<RouterEpoch>,
    /// The last that was written of the sequence, and in which epoch.
    written: Option<(RouterEpoch, Until)>,
    /// The database's clock jumped while somebody was the router.
    pub(crate) has_jumped: bool,
}

impl Order {
    /// The sequence is written. A router that has failed, or cannot keep up, has no row left at once, without a time in which
    /// rows are left behind others.
    pub(crate) fn writes(&mut self, epoch: RouterEpoch, until: Until) {
        if until != Until::Never {
            self.stopped = self.stopped.filter(|stopped| *stopped >= epoch);
        } else if self.written != Some((epoch, Until::Now)) {
            self.stopped = Some(epoch);
        }
        self.written = Some((epoch, until));
    }
}

impl World {
    /// Whether a row that is inserted now may come before others: the router died or failed.
    pub(crate) fn is_order_excused(&mut self) -> bool {
        let messages = &self.database.messages;
        let is_silent = messages.router.broker.is_some()
            && self.plant != Some(Plant::NotWrittenWhileDraining)
            && messages.until != 0
            && messages.until + PROBED < self.database_now();
        let is_faulty =
            |from: Micros, lasts: Micros| from <= self.now && self.now < from + lasts + FAULTY_FOR;
        if is_silent
            && !self.order.has_jumped
            && !self.is_put_off()
            && !self.plan.faults.iter().any(|f| is_faulty(f.at, f.lasts))
        {
            self.fail("the router is silent, and nothing is wrong".to_owned());
        }
        is_silent || self.order.stopped.is_some() || self.order.has_jumped
    }

    /// A row that is left has a router.
    pub(crate) fn check_is_left_to_somebody(&mut self, id: i64) {
        if self.database.messages.router.broker.is_none() {
            self.fail(format!("message {id} is left, and nobody is the router"));
        }
    }

    pub(crate) fn check_given_back(&mut self) {
        self.order.stopped = None;
        self.order.has_jumped = false;
        let unrouted: Vec<i64> = self.database.messages.unrouted().map(|(id, _)| id).collect();
        if !unrouted.is_empty() {
            self.fail(format!("the row is given back, and {unrouted:?} are left"));
        }
    }

    /// A round makes deliveries of nothing that was over before it began.
    pub(crate) fn check_routed(&mut self, made: &[(i64, Row)], began: Moment) {
        let over = |id: &i64| self.database.messages.rows.get(id).and_then(|m| m.over);
        let stale = made.iter().find(|(_, row)| over(&row.message).is_some_and(|at| at < began));
        if let Some((_, row)) = stale {
            self.fail(format!("message {} is routed, and was over before", row.message));
        }
    }

    /// After the sweep: the deliveries of messages that pollers ended are gone, but for those of a round on its way.
    pub(crate) fn check_nothing_ended_stays(&mut self) {
        let messages = &self.database.messages;
        let is_ended = |id: &i64| {
            messages.rows.get(id).is_some_and(|m| m.is_polled && messages.router.routed.shows(m.xid))
        };
        let stays = self.database.rows.values().find(|row| is_ended(&row.message)).map(|row| row.message);
        if let Some(id) = stays {
            self.fail(format!("a poller has ended message {id}, and its delivery stays"));
        }
    }

    /// A delivery is committed.
    pub(crate) fn check_made(&mut self, delivery: i64, id: i64, inbox: &Arc<str>) {
        if let Some(first) = self.order.made.insert((id, inbox.clone()), delivery) {
            return self.fail(format!("message {id} has deliveries {first} and {delivery} for {inbox}"));
        }
        let messages = &self.database.messages.rows;
        let Some(message) = messages.get(&id).filter(|m| !m.is_excused) else { return };
        let is_before = |other: i64, m: &crate::messages::Message| {
            let is_seen = m.committed.is_some_and(|at| at < message.began);
            (is_seen || (m.xid == message.xid && other < id))
                && m.lane == message.lane
                && m.to.contains(inbox)
        };
        let is_late = |(other, m): &(&i64, &crate::messages::Message)| {
            let made = self.order.made.get(&(**other, inbox.clone()));
            made.map_or(m.over.is_none(), |made| *made > delivery)
        };
        let late = messages.iter().filter(|(other, m)| is_before(**other, m)).find(is_late);
        if let Some((other, _)) = late {
            let other = *other;
            self.fail(format!("message {id} is before {other} in {inbox}, which its producer had seen"));
        }
    }

    /// Everything is quiet: messages that are nowhere, and whether somebody is still the router.
    pub(crate) fn unrouted(&self) -> Vec<i64> {
        let messages = &self.database.messages;
        let is_made = |id: i64, inbox: &Arc<str>| self.order.made.contains_key(&(id, inbox.clone()));
        let waits = messages.rows.iter().filter(|(_, m)| m.over.is_none() && !m.is_deleted);
        waits
            .filter(|(id, m)| m.committed.is_none() || m.to.iter().any(|inbox| !is_made(**id, inbox)))
            .map(|(id, _)| *id)
            .collect()
    }

    /// A jump of the clock back puts off the end of a dead broker's lease.
    fn is_put_off(&self) -> bool {
        let holder =
            self.database.messages.router.broker.and_then(|broker| self.database.brokers.get(&broker));
        holder.is_some_and(|row| row.lease_until > self.database_now() + LEASE)
    }

    /// Whether no row is left, nobody is the router, and every producer has ended; or the takeover is put off, as
    /// that of a dead broker's inboxes.
    pub(crate) fn has_routed(&self) -> bool {
        self.plan.routed.is_none()
            || self.is_put_off()
            || (self.transactions.iter().all(|t| t.has_ended)
                && self.database.messages.router.broker.is_none()
                && self.unrouted().is_empty())
    }
}
