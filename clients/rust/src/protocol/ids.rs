//! The numbers of a line that name something: each a type of its own, so that two kinds cannot be swapped.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a delivery within one session, counted from 1. Another session has another tag for the same delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tag(pub u64);

impl Tag {
    /// Before the first: no delivery has it, and brokers ignore it.
    pub const NONE: Self = Self(0);
    /// No delivery has a higher tag.
    pub const MAX: Self = Self(u64::MAX);

    /// The tag of the next delivery.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The order of two sessions with the same agent and instance: the one with the higher rank goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rank(pub i64);

impl Rank {
    /// The rank of the same session's attempt with this number to link: the later attempt goes on.
    #[must_use]
    pub fn of_attempt(self, number: i64) -> Self {
        Self(self.0.saturating_add(number))
    }
}
