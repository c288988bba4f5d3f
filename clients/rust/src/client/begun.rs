//! Which deliveries the agent has in hand, for the broker to know should the process die: of several it must be told, of one
//! it knows without.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct InHand(Arc<Mutex<Tags>>);

#[derive(Debug, Default)]
struct Tags {
    /// Of this connection.
    generation: u64,
    out: BTreeSet<u64>,
    /// Once it was said of some it must be said of each.
    said: bool,
}

impl InHand {
    /// The agent takes one; the tags to tell the broker of.
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

    /// Something became of it.
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
