//! Deliveries that wait to be pushed apart: alone with a session that has nothing else in flight.
//!
//! A session that ended with several deliveries in hand does not say which of them is to blame. Each counts as
//! failed, but none becomes a dead letter by that. Before its last attempt such a delivery waits here until it
//! can be pushed apart, and then it shows whether it was the one.

use super::Inbox;
use crate::inbox::Entry;

/// The most deliveries that wait here; further ones have their last attempt in company.
pub(in crate::inbox) const APART_MAX: usize = 64;

impl Inbox {
    /// Keeps a delivery to be pushed apart; false if there is no place.
    pub(in crate::inbox) fn keep_apart(&mut self, entry: &Entry) -> bool {
        if self.apart.len() >= APART_MAX {
            return false;
        }
        // The others of its key wait for it.
        self.order.pushed(entry);
        self.apart.push_back(entry.clone());
        true
    }

    /// The delivery that waits longest.
    pub(in crate::inbox) fn first_apart(&self) -> Option<&Entry> {
        self.apart.front()
    }

    pub(super) fn is_apart(&self, entry: &Entry) -> bool {
        self.apart.iter().any(|e| e.attempt == entry.attempt)
    }

    pub(super) fn forget_apart(&mut self) {
        for entry in std::mem::take(&mut self.apart) {
            self.order.passed_over(&entry);
        }
    }
}
