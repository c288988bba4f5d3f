//! The ids of the dispatcher, each a type of its own, so that two kinds cannot be swapped. A number that a row or a line
//! brings becomes an id where it is read, and a number again where it is written. [`Tag`] and [`Rank`] come with the lines.

use std::fmt;

pub use postbell_client::protocol::ids::{Rank, Tag};

/// The id of a delivery's row, which is the order of arrival.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub i64);

impl DeliveryId {
    /// No row has a lower id.
    pub const MIN: Self = Self(i64::MIN);
    /// No row has a higher id.
    pub const MAX: Self = Self(i64::MAX);

    pub(super) fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    pub(super) fn after(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An attempt at a delivery. An outcome is written where both values match the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt {
    /// The id of the delivery's row.
    pub delivery_id: DeliveryId,
    /// How many attempts failed before this one.
    pub failed: u32,
}

impl Attempt {
    /// The number that an agent is told, from 1.
    pub fn number(self) -> u32 {
        self.failed.saturating_add(1)
    }
}

/// The number of a session, unique in this broker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number of one ownership of an inbox, from a sequence of the database: none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub i64);

impl Epoch {
    /// No ownership has it, since the sequence begins with 1.
    pub const NEVER: Self = Self(0);
}
