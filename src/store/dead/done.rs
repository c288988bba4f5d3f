//! The fate of dead letters that were to be redriven or purged.

use std::fmt;

use crate::store::error::StoreError;
use postbell_engine::inbox::DeliveryId;

/// A sentence names so many refused rows.
const NAMED_MAX: usize = 3;
const KEPT: &str = "a trigger or a rule of agent_messages keeps the change out without an error: let it pass what sessions with \
                    the setting postbell.broker = on write";

/// A dead letter that stays one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number that `postbell dead` shows it under.
    pub delivery_id: i64,
    /// Which constraint, trigger or function of the user's does not take it.
    pub reason: String,
}

/// The fate of those that were looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// So many were redriven or purged.
    pub count: i64,
    /// So many were looked at.
    pub looked: i64,
    /// The one with the highest number of these.
    pub last: Option<DeliveryId>,
    /// So many were passed over, since another transaction holds them.
    pub held: i64,
    /// So many were not tried, since those that are refused took all of the time.
    pub untried: usize,
    /// Rows that the user's table does not take.
    pub refused: Vec<Refusal>,
}

impl Refusal {
    /// The row stayed as it was, and nothing said why.
    pub(super) fn kept_out(delivery_id: i64) -> Self {
        Self { delivery_id, reason: KEPT.to_owned() }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delivery {} stays dead: {}", self.delivery_id, self.reason)
    }
}

impl Done {
    /// Whether there is nothing to say of it but the count.
    pub fn is_whole(&self) -> bool {
        self.held == 0 && self.untried == 0 && self.refused.is_empty()
    }

    /// The rows that stay dead, and why; empty if there are none.
    pub fn left(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        parts.extend(self.refused.iter().take(NAMED_MAX).map(ToString::to_string));
        let more = self.refused.len().saturating_sub(NAMED_MAX);
        if more > 0 {
            parts.push(format!("{more} more are refused"));
        }
        if self.held > 0 {
            parts.push(format!("{} are held by another transaction: ask again when it has ended", self.held));
        }
        if self.untried > 0 {
            parts.push(format!("{} were not tried, for want of time: ask again for these", self.untried));
        }
        parts.join("; ")
    }

    pub(super) fn add(&mut self, other: Self) {
        self.count += other.count;
        self.looked += other.looked;
        self.last = self.last.max(other.last);
        self.held += other.held;
        self.untried += other.untried;
        self.refused.extend(other.refused);
    }
}

/// Not all that was chosen was redriven or purged. Each change that was made stays.
#[derive(Debug)]
pub struct Partly {
    /// The fate of those that were tried.
    pub done: Done,
    /// Why nothing more was tried.
    pub error: Option<StoreError>,
}

impl fmt::Display for Partly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "done: {}; {}", self.done.count, self.done.left())?;
        self.error.as_ref().map_or(Ok(()), |error| write!(f, "; then: {error}"))
    }
}

impl std::error::Error for Partly {}
