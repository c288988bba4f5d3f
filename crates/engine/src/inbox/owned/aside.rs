//! What is set aside until a session has nothing else.
//!
//! A session that ended while its agent handled several deliveries does not say which of them it was. Each counts as failed,
//! and none becomes a dead letter by that: before its last attempt a delivery waits here, is alone with its session
//! then, and shows whether it was the one.

use super::{Inbox, attempt_of};
use crate::inbox::Entry;

/// How many may wait; others have their last attempt in company.
pub(in crate::inbox) const ASIDE_MAX: usize = 64;

impl Inbox {
    /// Sets one aside. False: there are as many as may be.
    pub(in crate::inbox) fn set_aside(&mut self, entry: &Entry) -> bool {
        if self.aside.len() >= ASIDE_MAX {
            return false;
        }
        // Others of its key wait for it.
        self.order.pushed(entry);
        self.aside.push_back(entry.clone());
        true
    }

    /// The next of them.
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
