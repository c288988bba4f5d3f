//! The rows that the tail and the refills bring.

use std::sync::Arc;
use std::time::Instant;

use super::Dispatcher;
use crate::inbox::Entry;
use crate::inbox::event::{Effect, KeyRows, LaneRows, Refill, Snapshot};
use crate::inbox::owned::{Inbox, Ownership};

impl Dispatcher {
    pub(super) fn arrived(&mut self, rows: Vec<(Arc<str>, Entry)>) {
        for (inbox, entry) in rows {
            let room = self.room();
            // An inbox that is unknown here was given back while the statement ran: its next owner reads these
            // rows.
            let Some(first) = self.with_inbox(&inbox, |state| state.arrive(entry, room)) else { continue };
            if first {
                self.in_round.push(inbox.clone());
            }
            if self.touched.last() != Some(&inbox) {
                self.touched.push(inbox);
            }
        }
    }

    pub(super) fn refilled(&mut self, inbox: Arc<str>, lanes: Vec<LaneRows>, keys: Vec<KeyRows>) {
        let room = self.room();
        self.with_inbox(&inbox, |state| state.end_refill(lanes, keys, room));
        self.give_back_if_left(&inbox);
        self.touched.push(inbox);
    }

    pub(super) fn refill_failed(&mut self, inbox: Arc<str>) {
        self.with_inbox(&inbox, Inbox::cancel_refill);
        self.give_back_if_left(&inbox);
        self.touched.push(inbox);
    }

    /// A tail round that began after the lease was committed has brought every row of the inbox, or its
    /// snapshot shows the row to refills. The inbox is then owned.
    pub(super) fn tail_round(&mut self, started_at: Instant, snapshot: Snapshot) {
        self.snapshot = Some(snapshot);
        self.tailed_at = Some(started_at);
        for inbox in std::mem::take(&mut self.in_round) {
            if let Some(state) = self.inboxes.get_mut(&inbox) {
                state.end_round();
                self.touched.push(inbox);
            }
        }
        for inbox in std::mem::take(&mut self.returning) {
            let Some(state) = self.inboxes.get_mut(&inbox) else { continue };
            if state.order.round(started_at) {
                self.returning.push(inbox.clone());
            }
            self.delayed.extend(state.order.next_wake().map(|at| (at, inbox)));
        }
        for inbox in std::mem::take(&mut self.loading) {
            let Some(state) = self.inboxes.get_mut(&inbox) else { continue };
            match state.ownership {
                Ownership::Loading { since, epoch } if since <= started_at => {
                    state.turn_to(Ownership::Owned { epoch });
                    self.touched.push(inbox);
                }
                Ownership::Loading { .. } => self.loading.push(inbox),
                _ => {}
            }
        }
    }

    /// Frees the ordering keys whose delay has ended.
    pub(super) fn wake_keys(&mut self, now: Instant) {
        while self.delayed.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, inbox)) = self.delayed.pop_first() else { return };
            self.with_inbox(&inbox, |state| state.order.wake(now));
            let Some(state) = self.inboxes.get(&inbox) else { continue };
            self.delayed.extend(state.order.next_wake().map(|at| (at, inbox.clone())));
            self.touched.push(inbox);
        }
    }

    /// A tail round broke off after it had brought some rows, and the next round will bring them again. So all
    /// lanes are read anew, and the outcomes of deliveries in flight tell which rows to skip.
    pub(super) fn tail_broken(&mut self, now: Instant) {
        let owned: Vec<_> = self.inboxes.keys().cloned().collect();
        for inbox in owned {
            let loading = self.with_inbox(&inbox, |state| match state.ownership {
                Ownership::Loading { epoch, .. } | Ownership::Owned { epoch } => {
                    state.forget(Ownership::Loading { since: now, epoch });
                    true
                }
                Ownership::Acquiring
                | Ownership::Elsewhere
                | Ownership::Leaving { .. }
                | Ownership::GivingBack => false,
            });
            if loading == Some(true) {
                self.loading.push(inbox);
            }
        }
    }

    pub(super) fn read_on(&mut self, inbox: &Arc<str>) {
        let room = self.room();
        let Some(snapshot) = self.snapshot.clone() else { return };
        let began = self.with_inbox(inbox, |state| {
            let (lanes, keys) = state.begin_refill(room);
            (!lanes.is_empty() || !keys.is_empty()).then(|| (lanes, keys, state.order.passed()))
        });
        if let Some(Some((lanes, keys, passed))) = began {
            let refill = Refill { inbox: inbox.clone(), snapshot, lanes, passed, keys };
            self.effects.push(Effect::Refill(refill));
        }
    }
}
