//! Messages that were dropped without an outcome. The first time may be an accident; the second time the
//! handler itself ends without an outcome.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

/// The most messages that are remembered, the newest ones.
const REMEMBERED_MAX: usize = 1_024;

/// The messages that were dropped before.
#[derive(Default)]
pub(super) struct Dropped {
    known: HashSet<Uuid>,
    order: VecDeque<Uuid>,
}

impl Dropped {
    /// Whether this message was dropped before. Remembers the message.
    pub(super) fn is_again(&mut self, id: Uuid) -> bool {
        if !self.known.insert(id) {
            return true;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_known_again_until_many_others_came() {
        let mut dropped = Dropped::default();
        let id = Uuid::from_u128;
        assert!(!dropped.is_again(id(0)) && dropped.is_again(id(0)));
        for n in 1..=REMEMBERED_MAX as u128 {
            assert!(!dropped.is_again(id(n)));
        }
        assert!(!dropped.is_again(id(0)));
        assert_eq!(dropped.known.len(), REMEMBERED_MAX);
    }
}
