//! Deliveries that wait to be pushed apart: alone with a session that has nothing else in flight.
//!
//! A session that ended with several deliveries in hand does not say which of them is to blame. Each counts as
//! failed, but none becomes a dead letter by that. Before its last attempt such a delivery waits here until it
//! can be pushed apart, and then it shows whether it was the one.

use super::{Inbox, attempt_of};
use crate::inbox::Entry;

/// The most deliveries that wait here; further ones have their last attempt in company.
pub(in crate::inbox) const ASIDE_MAX: usize = 64;

impl Inbox {
    /// Keeps a delivery to be pushed apart; false if there is no place.
    pub(in crate::inbox) fn set_aside(&mut self, entry: &Entry) -> bool {
        if self.aside.len() >= ASIDE_MAX {
            return false;
        }
        // The others of its key wait for it.
        self.order.pushed(entry);
        self.aside.push_back(entry.clone());
        true
    }

    /// The delivery that waits longest.
    pub(in crate::inbox) fn first_aside(&self) -> Option<&Entry> {
        self.aside.front()
    }

    pub(super) fn is_aside(&self, entry: &Entry) -> bool {
        self.aside.iter().any(|e| attempt_of(e) == attempt_of(entry))
    }

    pub(super) fn forget_aside(&mut self) {
        for entry in std::mem::take(&mut self.aside) {
            self.order.passed_over(&entry);
        }
    }
}
