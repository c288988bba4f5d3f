//! Pollers, which end messages by SQL and delete some, and the sweep after them.

use rand::RngExt;

use crate::plants::Plant;
use crate::world::{To, What, World};

impl World {
    /// A poller's statement: it ends a message at its commit; its trigger has looked for the deliveries before.
    pub(crate) fn poll(&mut self, index: usize) {
        let Some(poll) = self.plan.routed.as_ref().and_then(|routed| routed.polls.get(index)).cloned() else {
            return;
        };
        let messages = &self.database.messages;
        let waiting: Vec<i64> = messages
            .rows
            .iter()
            .filter(|(_, m)| m.committed.is_some() && m.over.is_none() && !m.is_broadcast)
            .map(|(id, _)| *id)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let at = if poll.newest { waiting.len() - 1 } else { self.rng.random_range(0..waiting.len()) };
        let id = waiting[at];
        let its = self.database.rows.iter().filter(|(_, row)| row.message == id);
        let deliveries: Vec<i64> = its.map(|(delivery, _)| *delivery).collect();
        let Some(message) = self.database.messages.rows.get(&id) else { return };
        let may_be_routed = message.is_left && !self.database.messages.router.routed.shows(message.xid);
        let ends = What::Polled { message: id, deliveries, deletes: poll.deletes, may_be_routed };
        self.plan_in(poll.lasts, To::World, ends);
    }

    pub(crate) fn polled(&mut self, id: i64, deliveries: &[i64], deletes: bool, may_be_routed: bool) {
        let moment = self.database.messages.next_moment();
        let Some(message) = self.database.messages.rows.get_mut(&id) else { return };
        message.over.get_or_insert(moment);
        message.is_deleted |= deletes;
        message.is_polled = true;
        for delivery in deliveries {
            self.database.rows.remove(delivery);
            self.check.is_gone(*delivery);
        }
        if may_be_routed && self.plant != Some(Plant::NotNoted) {
            self.database.messages.unseen.insert(id);
        }
    }

    /// The sweep removes what was routed all the same; a note stays until no round can route the message any more.
    pub(crate) fn sweep_ended(&mut self) {
        let messages = &self.database.messages;
        let is_past = |id: &i64| messages.rows.get(id).is_none_or(|m| messages.router.routed.shows(m.xid));
        let past: Vec<i64> = messages.unseen.iter().copied().filter(is_past).collect();
        for id in past {
            self.database.messages.unseen.remove(&id);
            let its = self.database.rows.extract_if(.., |_, row| row.message == id);
            its.for_each(|(delivery, _)| self.check.is_gone(delivery));
        }
        self.check_nothing_ended_stays();
    }
}
