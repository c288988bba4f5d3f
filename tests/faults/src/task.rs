//! The payload, which producers write and agents read: it says what the handler should do.

use rand::RngExt;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

/// How long a handler may hold a message before it acknowledges it: well below the deadline.
const HOLD_MS: std::ops::Range<u32> = 100..1_500;

/// A payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The message's line in the ledger; for a broadcast, the first of its lines.
    pub n: u64,
    /// The handler's task.
    pub wish: Wish,
    /// How many milliseconds the message is held first.
    #[serde(default)]
    pub ms: u32,
    /// A broadcast: each inbox has a line of its own.
    #[serde(default)]
    pub each: bool,
}

/// The task of a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Acknowledged at once.
    Ack,
    /// Acknowledged after a while.
    Hold,
    /// Given back by each process that sees it for the first time, then acknowledged.
    Release,
    /// Failed at the first attempt, then acknowledged.
    Fail,
    /// A dead letter at once.
    Dead,
    /// Failed at each attempt, until it is a dead letter.
    Poison,
}

impl Wish {
    /// A random task, mostly `Ack`, with some of every other; and how many milliseconds the message is held.
    pub fn any(dice: &mut StdRng) -> (Self, u32) {
        match dice.random_range(0..1_000) {
            0..40 => (Self::Hold, dice.random_range(HOLD_MS)),
            40..60 => (Self::Release, 0),
            60..90 => (Self::Fail, 0),
            90..95 => (Self::Dead, 0),
            95 => (Self::Poison, 0),
            _ => (Self::Ack, 0),
        }
    }

    /// Whether the message should end as a dead letter.
    pub fn ends_dead(self) -> bool {
        matches!(self, Self::Dead | Self::Poison)
    }
}
