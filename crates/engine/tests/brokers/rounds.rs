//! The work of a round: which messages it routes, in which order, and everything that its commit shows.

use std::sync::Arc;

use crate::asks::{RouterAsk, RouterEpoch, Until};
use crate::database::{Row, Seen};
use crate::messages::LEFT;
use crate::plants::Plant;
use crate::routing::{RouterReply, Running, Step};
use crate::schedule::MS;
use crate::world::{What, World};

impl World {
    /// The left messages that are new since then: those without deliveries in their order, and the number of all.
    pub(crate) fn work(&self, after: &Seen) -> (Vec<i64>, u64) {
        let forgets = self.plant == Some(Plant::InProgressForgotten);
        let is_new = |xid: u64| xid >= after.xmax || (!forgets && after.in_progress.contains(&xid));
        let rows = self.database.messages.rows.iter();
        let found: Vec<_> = rows
            .filter(|(_, m)| m.is_left && !m.is_deleted && m.committed.is_some() && is_new(m.xid))
            .collect();
        let any_status = self.plant == Some(Plant::StatusNotChecked);
        let has_none = |id: i64| {
            self.plant == Some(Plant::DeliveryNotChecked)
                || !(self.database.messages.broadcasts.contains(&id)
                    || self.database.rows.values().any(|row| row.message == id))
        };
        let mut work: Vec<i64> = found
            .iter()
            .filter(|(id, m)| (m.over.is_none() || any_status) && has_none(**id))
            .map(|(id, _)| **id)
            .collect();
        if self.plant == Some(Plant::OrderByTransaction) {
            let m = |id: &i64| self.database.messages.rows.get(id).map(|m| (m.xid, m.arrival));
            work.sort_by_key(m);
        }
        (work, found.len() as u64)
    }

    pub(crate) fn write_until(&mut self, until: Until) {
        let now = self.database_now() / MS * MS;
        let is_quiet = self.plant == Some(Plant::NotWrittenWhileDraining) && !self.is_loaded(0);
        self.database.messages.until = match until {
            Until::Ahead | Until::Now if is_quiet => return,
            Until::Ahead => now + LEFT,
            Until::Now => now,
            Until::Never => 0,
        };
    }

    /// Draws the ids of the deliveries and reads the bell.
    pub(crate) fn routing_works(&mut self, number: u64) {
        let Some(mut running) = self.routing.running.remove(&number) else { return };
        running.step = Step::End;
        for id in std::mem::take(&mut running.work) {
            let Some(message) = self.database.messages.rows.get(&id).cloned() else { continue };
            if message.is_broadcast {
                running.broadcasts.push(id);
            }
            for inbox in &message.to {
                if !self.database.has_delivery(id, inbox) {
                    let delivery = self.database.take_delivery_id();
                    self.check.terms.insert(delivery, (inbox.clone(), message.lane, None));
                    running.made.push((delivery, self.database.delivery(id, &message, inbox, running.xid)));
                }
            }
        }
        running.rings = !running.made.is_empty() && self.database.bell_until > self.database_now();
        self.routing.running.insert(number, running);
        self.routing_goes_on_later(number);
    }

    pub(crate) fn routing_commits(&mut self, running: &mut Running) {
        let now_seen = self.database.snapshot();
        let router = &mut self.database.messages.router;
        match &running.ask {
            RouterAsk::Take => {
                let is_again = router.broker == Some(running.by) && self.plant == Some(Plant::EpochNotRaised);
                router.broker = Some(running.by);
                router.epoch += i64::from(!is_again);
                if self.plant == Some(Plant::TakenFromNow) {
                    router.routed = running.seen.clone();
                }
                running.reply = RouterReply::Took(RouterEpoch(router.epoch), router.routed.clone());
            }
            RouterAsk::GiveBack(_) => {
                router.broker = None;
                running.reply = RouterReply::GaveBack;
                self.check_given_back();
            }
            RouterAsk::Mark(..) => {
                // A transaction of its own, after the writing.
                let drawn = self.database.begin_writing();
                self.database.messages.running.remove(&drawn);
                running.reply = RouterReply::Marked(drawn);
            }
            RouterAsk::Route { .. } => {
                router.routed = running.seen.clone();
                if self.plant == Some(Plant::SnapshotOfAnother) {
                    router.routed = now_seen;
                }
                let cursor = self.database.messages.router.routed.clone();
                running.reply = RouterReply::Round(cursor, running.found);
            }
        }
        let made = std::mem::take(&mut running.made);
        self.check_routed(&made, running.moment);
        for (id, row) in made {
            // Who waited for another's row with the same message and inbox does nothing.
            if !self.database.has_delivery(row.message, &row.inbox) {
                self.deliver(id, row);
            }
        }
        self.database.messages.broadcasts.extend(running.broadcasts.drain(..));
        if running.rings {
            (0..2).for_each(|b| self.notify(b, What::Ring));
        }
    }

    /// A delivery is committed.
    pub(crate) fn deliver(&mut self, id: i64, row: Row) {
        let (message, inbox): (i64, Arc<str>) = (row.message, row.inbox.clone());
        self.database.rows.insert(id, row);
        self.check_made(id, message, &inbox);
    }
}
