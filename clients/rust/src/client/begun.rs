//! The deliveries that the agent has in hand. If the process dies, the broker blames the oldest one; when there
//! are several in hand, the broker must be told of each by `begun`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::protocol::Tag;

/// The tags in hand; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct InHand(Arc<Mutex<Tags>>);

#[derive(Debug, Default)]
struct Tags {
    /// The connection that the tags are of.
    generation: u64,
    out: BTreeSet<Tag>,
    /// Whether `begun` was sent on this connection: from then on each delivery must be named.
    said: bool,
}

impl InHand {
    /// The agent takes a delivery. Returns the tags to name by `begun`.
    pub(super) fn begin(&self, generation: u64, tag: Tag) -> Vec<Tag> {
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
    pub(super) fn now(&self, generation: u64) -> Vec<Tag> {
        let tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.generation == generation { tags.out.iter().copied().collect() } else { Vec::new() }
    }

    /// The delivery has its outcome.
    pub(super) fn end(&self, generation: u64, tag: Tag) {
        let mut tags = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if tags.generation == generation {
            tags.out.remove(&tag);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [Tag; 0] = [];

    #[test]
    fn one_after_the_other_needs_no_word_and_of_several_each_is_told() {
        let hand = InHand::default();
        assert_eq!(hand.begin(1, Tag(1)), NONE);
        hand.end(1, Tag(1));
        assert_eq!(hand.begin(1, Tag(2)), NONE);
        assert_eq!(hand.begin(1, Tag(3)), [2, 3].map(Tag));
        hand.end(1, Tag(2));
        hand.end(1, Tag(3));
        assert_eq!(hand.begin(1, Tag(4)), [Tag(4)], "what is not said is given back");
        hand.end(1, Tag(9));
        assert_eq!(hand.begin(2, Tag(1)), NONE, "another connection");
        hand.end(1, Tag(1));
        assert_eq!(
            hand.begin(2, Tag(2)),
            [1, 2].map(Tag),
            "the end of an older one's tag is none of this one's"
        );
        assert_eq!((hand.now(2), hand.now(3)), (vec![Tag(1), Tag(2)], vec![]));
    }
}
