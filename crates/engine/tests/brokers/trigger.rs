//! The trigger on messages, at the end of a statement: it makes the deliveries of what is not left.

use std::sync::Arc;

use crate::messages::{LEFT_MAX, View};
use crate::plants::Plant;
use crate::schedule::{MS, Micros};
use crate::world::{To, What, World};

/// A bulk insert waits for the router's next round, but no longer than this.
const BULK_WAITS: Micros = 200 * MS;

impl World {
    /// triggers/route.sql, at the end of a statement.
    pub(crate) fn trigger(&mut self, t: usize) {
        let Some(statement) = &self.transactions[t].statement else { return };
        let (is_any, bulk_until) = (!statement.for_trigger.is_empty(), statement.bulk_until);
        if is_any && self.bulk_waits(t, bulk_until) {
            return;
        }
        let Some(statement) = self.transactions[t].statement.take() else { return };
        let transaction = &mut self.transactions[t];
        if is_any {
            // With those that it has left before, in the order of their inserts.
            let is_routed = |id: &i64| transaction.deliveries.iter().any(|(_, row)| row.message == *id);
            let mut ids: Vec<i64> =
                transaction.messages.iter().copied().filter(|id| !is_routed(id)).collect();
            if self.plant == Some(Plant::OwnLeftFirst) {
                ids.sort_by_key(|id| statement.for_trigger.contains(id));
            }
            let is_excused =
                ids.iter().any(|id| self.database.messages.rows.get(id).is_some_and(|m| m.is_excused));
            for id in ids {
                if let Some(message) = self.database.messages.rows.get_mut(&id) {
                    message.is_excused |= is_excused;
                }
                self.trigger_routes(t, id);
            }
            self.transactions[t].rings |= self.database.bell_until > self.database_now();
        }
        self.producer_waits(t);
    }

    fn trigger_routes(&mut self, t: usize, id: i64) {
        let Some(message) = self.database.messages.rows.get(&id).cloned() else { return };
        let transaction = &mut self.transactions[t];
        if message.is_broadcast {
            if transaction.broadcasts.contains(&id) {
                return;
            }
            transaction.broadcasts.push(id);
        }
        for inbox in &message.to {
            let delivery = self.database.take_delivery_id();
            self.check.terms.insert(delivery, (Arc::clone(inbox), message.lane, None));
            let row = self.database.delivery(id, &message, inbox, message.xid);
            self.transactions[t].deliveries.push((delivery, row));
        }
    }

    /// A statement beyond the rows that may be left waits for the router, where rows are left that were committed before.
    fn bulk_waits(&mut self, t: usize, until: Option<Micros>) -> bool {
        if self.transactions[t].rows <= LEFT_MAX || self.plant == Some(Plant::BulkOvertakes) {
            return false;
        }
        let routed = self.database.messages.router.routed.clone();
        let Some(statement) = &self.transactions[t].statement else { return false };
        let view = View { routed, ..statement.view.clone() };
        if !self.database.messages.shows_unrouted(&view, None) {
            return false;
        }
        let until = until.unwrap_or(self.now + BULK_WAITS);
        let Some(statement) = &mut self.transactions[t].statement else { return false };
        statement.bulk_until = Some(until);
        if until <= self.now {
            for id in self.transactions[t].messages.clone() {
                if let Some(message) = self.database.messages.rows.get_mut(&id) {
                    message.is_excused = true;
                }
            }
            return false;
        }
        self.plan_in(MS, To::World, What::Producer(t));
        true
    }
}
