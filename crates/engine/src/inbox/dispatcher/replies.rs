//! Replies to a process: pushed beside the window of the session that asked, and never in the way of other
//! deliveries.
//!
//! The lane of replies keeps only replies to processes that are connected here, and a bounded number of those
//! that wait for room. All others are written to the lane of their priority and queue there, even if the
//! process comes back.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::Dispatcher;
use crate::inbox::event::Outcome;
use crate::inbox::owned::{Inbox, Source};
use crate::inbox::{DeliveryId, Entry, SessionId};

/// The most replies that wait in their lane for room at processes that are connected here.
pub const REPLIES_WAITING_MAX: usize = 256;

impl Dispatcher {
    pub(super) fn push_replies(&mut self, now: Instant, inbox: &Arc<str>) {
        let Some(state) = self.owned(inbox) else { return };
        let replies = state.replies();
        if replies.is_empty() {
            return;
        }
        let processes = self.processes(state);
        let mut waiting = 0;
        for (id, instance) in replies {
            if !self.may_push_to(now, inbox) {
                return;
            }
            let process = instance.as_ref().and_then(|instance| processes.get(&**instance)).copied();
            match process {
                Some(session) if self.push_reply(now, inbox, id, session) => {}
                Some(_) if waiting < REPLIES_WAITING_MAX => waiting += 1,
                Some(_) => self.relane(inbox, id),
                None if self.push_as_ordinary(now, inbox, id) => {}
                None => self.relane(inbox, id),
            }
        }
    }

    /// The newest session of each process that is here.
    fn processes(&self, state: &Inbox) -> HashMap<String, SessionId> {
        let here = state.sessions.iter().filter_map(|id| Some((*id, self.sessions.get(id)?)));
        let named = here.filter(|(_, s)| s.is_there()).filter_map(|(id, s)| Some((s.instance.clone()?, id)));
        named.collect()
    }

    /// Pushes a reply to the process that asked, whatever the window; false if the bound for replies is
    /// reached.
    fn push_reply(&mut self, now: Instant, inbox: &Arc<str>, id: DeliveryId, session: SessionId) -> bool {
        let Some(state) = self.owned(inbox) else { return false };
        let (bytes, others_wait) = (state.reply(id).map_or(0, body_bytes), state.has_ordinary());
        let has_room = self.sessions.get(&session).is_some_and(|s| s.has_room_for_reply(bytes, others_wait));
        has_room && self.take_reply(now, inbox, id, session)
    }

    /// Pushes a reply to any session, if it is the next delivery of its priority anyway.
    fn push_as_ordinary(&mut self, now: Instant, inbox: &Arc<str>, id: DeliveryId) -> bool {
        let Some(entry) = self.owned(inbox).and_then(|state| state.reply(id).filter(|e| state.is_next(e)))
        else {
            return false;
        };
        let bytes = body_bytes(entry);
        self.next_session(inbox, bytes).is_some_and(|session| self.take_reply(now, inbox, id, session))
    }

    fn take_reply(&mut self, now: Instant, inbox: &Arc<str>, id: DeliveryId, session: SessionId) -> bool {
        let source = Source::Reply(id);
        let Some(Some(entry)) = self.with_inbox(inbox, |state| state.pop(source)) else { return false };
        self.give_out(now, inbox, session, source, &entry);
        true
    }

    fn relane(&mut self, inbox: &Arc<str>, id: DeliveryId) {
        let take = |state: &mut Inbox| state.may_relane().then(|| state.pop(Source::Reply(id))).flatten();
        let Some(Some(entry)) = self.with_inbox(inbox, take) else { return };
        if let Some(state) = self.inboxes.get_mut(inbox) {
            state.relane();
        }
        self.settle(inbox, &entry, Outcome::Relane { lane: entry.ordinary_lane() });
    }
}

fn body_bytes(entry: &Entry) -> usize {
    entry.body.as_ref().map_or(0, |body| body.len())
}
