//! The states of an inbox: how far its ownership is, which question about its lease is open, which refill is under way.
//!
//! Each of the three goes its own way, and together only these are legal. [`Inbox::check`] holds every step of the
//! simulations against this table.
//!
//! | ownership | question | reading | besides |
//! |---|---|---|---|
//! | `Acquiring` | `Open`, `Outdated` | `Idle`, `Stale` | |
//! | `Elsewhere` | `None` | `Idle`, `Stale` | no session; something unsettled, or being read |
//! | `Loading` | any | `Idle`, `Stale` | a session |
//! | `Owned` | any | any | a session |
//! | `Leaving` | any | `Idle`, `Stale` | no session; something unsettled, read or asked |
//! | `Releasing` | `None` | `Idle` | nothing unsettled |

use std::collections::HashSet;
use std::time::Instant;

use super::{Attempt, Inbox};

/// How far this broker's ownership of the inbox is.
///
/// `Acquiring` → `Loading` (the lease is committed) → `Owned` (a tail round that began later has ended, so every
/// row is brought by the tail or visible to a refill) → `Leaving` (no session left; outcomes are being written)
/// → `Releasing` (the lease is being given back) → gone. A session that joins meanwhile turns `Leaving` back to
/// `Owned`, and waits for `Releasing` to end. `Elsewhere`: another broker's; kept while outcomes are being written of what
/// was pushed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::inbox) enum Ownership {
    Acquiring,
    Elsewhere,
    Loading { since: Instant, epoch: i64 },
    Owned { epoch: i64 },
    Leaving { epoch: i64 },
    Releasing,
}

/// The open question about the inbox's lease. There is one question at a time, and nothing is pushed before the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::inbox) enum Question {
    /// Nothing.
    None,
    /// Whether this broker can have it.
    Open,
    /// The same, and this broker's lease lapsed meanwhile: the answer may be from before, so it is asked again.
    Outdated,
}

/// The refill of the inbox that is under way: one at a time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Reading {
    /// Nothing.
    #[default]
    Idle,
    /// A refill is under way. It may have read the rows before of what was settled since.
    Asked { settled: HashSet<Attempt> },
    /// A refill is under way for lanes that were forgotten since: its answer says nothing.
    Stale,
    /// The last one met a delivery whose outcome is being written: the next one waits for the news, rather than asking
    /// the table over and over.
    AwaitsSettle,
}

impl Reading {
    /// Whether an answer will come.
    pub(super) fn is_asked(&self) -> bool {
        matches!(self, Self::Asked { .. } | Self::Stale)
    }
}

impl Inbox {
    /// Whether its state is one of the table's; says which it is where it is not.
    pub(in crate::inbox) fn check(&self) -> Result<(), String> {
        let (has_sessions, is_quiet) = (!self.sessions.is_empty(), self.is_quiet());
        let holds_nothing = matches!(self.reading, Reading::Idle | Reading::Stale);
        let is_legal = match self.ownership {
            Ownership::Acquiring => self.question != Question::None && holds_nothing,
            Ownership::Elsewhere => {
                self.question == Question::None && holds_nothing && !has_sessions && !is_quiet
            }
            Ownership::Loading { .. } => holds_nothing && has_sessions,
            Ownership::Owned { .. } => has_sessions,
            Ownership::Leaving { .. } => holds_nothing && !has_sessions && !is_quiet,
            Ownership::Releasing => is_quiet && self.reading == Reading::Idle,
        };
        if is_legal {
            return Ok(());
        }
        let (ownership, question, reading) = (self.ownership, self.question, &self.reading);
        let (sessions, unsettled) = (self.sessions.len(), self.unsettled.len());
        Err(format!("{ownership:?}, {question:?}, {reading:?}, {sessions} sessions, {unsettled} unsettled"))
    }
}
