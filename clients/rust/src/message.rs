//! The parts of a message that the table, the protocol and the broker share.

mod trace;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use trace::Trace;

/// The highest priority, delivered first.
pub const PRIORITY_HIGHEST: u8 = 1;
/// The lowest priority.
pub const PRIORITY_LOWEST: u8 = 10;
/// How many priorities there are, and so how many lanes an inbox has for them.
pub const PRIORITIES: usize = (PRIORITY_LOWEST - PRIORITY_HIGHEST + 1) as usize;
/// The lanes of an inbox: the lane of replies at 0, and each priority's lane at its number.
pub const LANES: usize = PRIORITIES + 1;
/// The lane of replies to a process: their `deliveries.priority` is 0.
pub const REPLIES: usize = 0;

const _: () = assert!(REPLIES < PRIORITY_HIGHEST as usize && LANES == PRIORITY_LOWEST as usize + 1);

/// How urgent a message is: 1 (highest) to 10; 5 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u8")]
pub struct Priority(u8);

impl Priority {
    /// Takes 1 to 10; anything else is `None`.
    pub fn new(value: i64) -> Option<Self> {
        let value = u8::try_from(value).ok()?;
        (PRIORITY_HIGHEST..=PRIORITY_LOWEST).contains(&value).then_some(Self(value))
    }

    /// The number, 1 to 10.
    pub fn get(self) -> u8 {
        self.0
    }

    /// The position of this priority's lane in an inbox.
    pub fn lane(self) -> usize {
        usize::from(self.0)
    }

    /// Every priority, the highest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (PRIORITY_HIGHEST..=PRIORITY_LOWEST).map(Self)
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl TryFrom<i64> for Priority {
    type Error = String;

    fn try_from(value: i64) -> Result<Self, String> {
        Self::new(value).ok_or_else(|| format!("priority {value} is not between 1 (highest) and 10"))
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> u8 {
        priority.0
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let value: i64 = s.parse().map_err(|_| format!("priority {s:?} is not a number from 1 to 10"))?;
        Self::try_from(value)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The type of a message; the table's CHECK constraint has the same six.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names are all there is to say")]
pub enum MessageType {
    Command,
    Query,
    Response,
    Alert,
    Heartbeat,
    Data,
}

impl MessageType {
    /// Every type, in the order of the table's constraint.
    pub const ALL: [Self; 6] =
        [Self::Command, Self::Query, Self::Response, Self::Alert, Self::Heartbeat, Self::Data];

    /// The word in the table and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::Query => "query",
            Self::Response => "response",
            Self::Alert => "alert",
            Self::Heartbeat => "heartbeat",
            Self::Data => "data",
        }
    }
}

impl FromStr for MessageType {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|t| t.as_str() == s).ok_or_else(|| {
            format!("message type {s:?} is none of command, query, response, alert, heartbeat, data")
        })
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_priority_is_one_to_ten() {
        assert_eq!(Priority::new(0), None);
        assert_eq!(Priority::new(11), None);
        assert_eq!(Priority::new(-250), None);
        assert_eq!(
            Priority::all().map(Priority::lane).collect::<Vec<_>>(),
            (REPLIES + 1..LANES).collect::<Vec<_>>()
        );
        assert_eq!(Priority::default().get(), 5);
    }

    #[test]
    fn a_type_is_spelled_the_same_everywhere() {
        for t in MessageType::ALL {
            assert_eq!(t.as_str().parse(), Ok(t));
            assert_eq!(serde_json::to_string(&t).expect("json"), format!("\"{t}\""));
        }
        assert!("Command".parse::<MessageType>().is_err());
    }
}
