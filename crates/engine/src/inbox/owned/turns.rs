//! The order in which the deliveries of an inbox go.

use std::sync::Arc;

use super::{Inbox, Source};
use crate::inbox::lane::Lane;
use crate::inbox::{DeliveryId, Entry};
use postbell_client::message::{LANES, REPLIES};

/// One push in so many takes the oldest ready delivery of the inbox, whatever its lane. No priority starves
/// then: under a saturating urgent load the others still get 6 % of the pushes.
pub(in crate::inbox) const OLDEST_EVERY: u64 = 16;

impl Inbox {
    /// Where the next delivery is, and the size of its body: by priority and then by age, except for one push
    /// in [`OLDEST_EVERY`]. Replies are not looked at.
    pub(in crate::inbox) fn next(&self) -> Option<(Source, usize)> {
        let turn_of_the_oldest = self.pushes % OLDEST_EVERY == OLDEST_EVERY - 1;
        let source = if turn_of_the_oldest { self.oldest() } else { self.most_urgent() }?;
        let body = self.entry(source).and_then(|entry| entry.body.as_ref());
        Some((source, body.map_or(0, |body| body.len())))
    }

    fn entry(&self, source: Source) -> Option<&Entry> {
        match source {
            Source::Order(id) => self.order.ready_entry(id),
            Source::Lane(lane) => self.lanes[lane].first(),
            Source::Reply(_) | Source::Apart => None,
        }
    }

    fn most_urgent(&self) -> Option<Source> {
        for lane in REPLIES + 1..LANES {
            let free = self.order.ready_in(lane);
            match (self.lanes[lane].front(), free) {
                (Some(front), Some(id)) if id < front => return Some(Source::Order(id)),
                (Some(_), _) => return Some(Source::Lane(lane)),
                (None, Some(id)) => return Some(Source::Order(id)),
                // A more urgent delivery is still in the table: the less urgent ones wait for the refill.
                (None, None) if self.lanes[lane].has_more() => return None,
                (None, None) => {}
            }
        }
        None
    }

    fn oldest(&self) -> Option<Source> {
        let fronts =
            (REPLIES + 1..LANES).filter_map(|lane| Some((self.lanes[lane].front()?, Source::Lane(lane))));
        let free = self.order.oldest_ready().map(|id| (id, Source::Order(id)));
        fronts.chain(free).min_by_key(|(id, _)| *id).map(|(_, source)| source)
    }

    /// Takes the delivery that [`next`](Self::next) found; `None` if it waits for another one with its key.
    /// Replies never wait.
    pub(in crate::inbox) fn pop(&mut self, source: Source) -> Option<Entry> {
        match source {
            Source::Order(id) => self.order.pop(id),
            Source::Reply(id) => self.lanes[REPLIES].take(id),
            Source::Apart => self.apart.pop_front(),
            Source::Lane(lane) => {
                let entry = self.lanes[lane].pop()?;
                let (lanes, in_round) = (&self.lanes, self.in_round);
                self.order.admit(entry, || super::Around::of(lanes, in_round))
            }
        }
    }

    /// The replies that are held: their ids, and the processes that they answer.
    pub(in crate::inbox) fn replies(&self) -> Vec<(DeliveryId, Option<Arc<str>>)> {
        self.lanes[REPLIES]
            .iter()
            .map(|entry| (entry.attempt.delivery_id, entry.instance().cloned()))
            .collect()
    }

    /// The reply with this id, if it is held.
    pub(in crate::inbox) fn reply(&self, id: DeliveryId) -> Option<&Entry> {
        self.lanes[REPLIES].get(id)
    }

    /// Whether this reply, taken by the order of its priority, would be the next delivery of the inbox.
    pub(in crate::inbox) fn is_next(&self, entry: &Entry) -> bool {
        let lane = entry.ordinary_lane();
        // The reply's key may hold it back, which only the lane of its priority finds out.
        if entry.ordering_key().is_some() {
            return false;
        }
        for before in REPLIES + 1..=lane {
            let front = [self.lanes[before].front(), self.order.ready_in(before)].into_iter().flatten().min();
            let is_before = before < lane || front.is_some_and(|front| front < entry.attempt.delivery_id);
            if front.is_some() && is_before || self.lanes[before].has_more() {
                return false;
            }
        }
        true
    }

    /// Whether a delivery that is no reply waits.
    pub(in crate::inbox) fn has_ordinary(&self) -> bool {
        self.lanes.iter().skip(REPLIES + 1).any(|lane| !lane.is_empty())
            || self.order.oldest_ready().is_some()
    }

    /// Whether deliveries may wait in the table that were not read yet.
    pub(super) fn has_unread(&self) -> bool {
        self.lanes.iter().any(Lane::has_more) || self.order.is_hungry()
    }

    #[cfg(test)]
    pub(in crate::inbox) fn sketch(&self) -> String {
        let lanes: Vec<_> = self.lanes.iter().map(Lane::sketch).collect();
        let of = (self.ownership, self.question, &self.reading, self.in_round, self.relaning);
        format!("{of:?} {lanes:?} unsettled {:?} order {}", self.unsettled, self.order.sketch())
    }
}
