//! The deliveries that the agent has in hand. If the process dies, the broker blames the oldest one; when there
//! are several in hand, the broker must be told of each by `begun`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// The tags in hand; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct InHand(Arc<Mutex<Tags>>);

#[derive(Debug, Default)]
struct Tags {
    /// The connection that the tags are of.
    generation: u64,
    out: BTreeSet<u64>,
    /// Whether `begun` was sent on this connection: from then on each delivery must be named.
    said: bool,
}

impl InHand {
    /// The agent takes a delivery. Returns the tags to name by `begun`.
    pub(super) fn begin(&self, generation: u64, tag: u64) -> Vec<u64> {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.generation != generation {
            *tags = Tags { generation, ..Tags::default() };
        }
        tags.out.insert(tag);
        if tags.said {
            return vec![tag];
        }
        tags.said = tags.out.len() > 1;
        if tags.said { tags.out.iter().copied().collect() } else { Vec::new() }
    }

    /// The tags that the agent has, of this connection.
    pub(super) fn now(&self, generation: u64) -> Vec<u64> {
        let tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.generation == generation { tags.out.iter().copied().collect() } else { Vec::new() }
    }

    /// The delivery has its outcome.
    pub(super) fn end(&self, generation: u64, tag: u64) {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.generation == generation {
            tags.out.remove(&tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [u64; 0] = [];

    #[test]
    fn one_after_the_other_needs_no_word_and_of_several_each_is_told() {
        let hand = InHand::default();
        assert_eq!(hand.begin(1, 1), NONE);
        hand.end(1, 1);
        assert_eq!(hand.begin(1, 2), NONE);
        assert_eq!(hand.begin(1, 3), [2, 3]);
        hand.end(1, 2);
        hand.end(1, 3);
        assert_eq!(hand.begin(1, 4), [4], "what is not said is given back");
        hand.end(1, 9);
        assert_eq!(hand.begin(2, 1), NONE, "another connection");
        hand.end(1, 1);
        assert_eq!(hand.begin(2, 2), [1, 2], "the end of an older one's tag is none of this one's");
        assert_eq!((hand.now(2), hand.now(3)), (vec![1, 2], vec![]));
    }
}
