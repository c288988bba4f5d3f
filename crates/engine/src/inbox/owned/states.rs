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
//! | `GivingBack` | `None` | `Idle` | nothing unsettled |

use std::collections::HashSet;
use std::time::Instant;

use super::Inbox;
use crate::inbox::{Attempt, Epoch};

/// How far this broker's ownership of the inbox is. [`Inbox::turn_to`] is the one door, and [`Ownership::may_become`] its list.
///
/// | from | to | when |
/// |---|---|---|
/// | nothing | `Acquiring` | a session joins |
/// | `Acquiring` | `Loading` | the lease is committed |
/// | `Acquiring` | `Elsewhere` | another broker has the lease; its owner is told to the sessions |
/// | `Elsewhere` | `Acquiring` | a session joins, or comes back from the owner |
/// | `Loading` | `Owned` | a tail round that began later has ended: every row is brought by the tail or visible to a refill |
/// | `Loading`, `Owned` | `Loading` | the tail broke off, or the lease came back with another epoch |
/// | `Loading`, `Owned` | `Leaving` | the last session has left |
/// | `Leaving` | `Loading` | a session joins, or the lease came back with another epoch |
/// | `Leaving` | `GivingBack` | nothing is unsettled, read or asked any more |
/// | all with a question | `Acquiring` | the lease was refused |
/// | `Loading`, `Owned`, `Leaving` | `Acquiring` | the lease was found to be gone, and is asked for anew |
/// | `GivingBack` | `Acquiring` | the lease is given back, and a session has joined meanwhile |
/// | `Acquiring`, `Elsewhere`, `Leaving`, `GivingBack` | nothing | no session, and nothing unsettled |
///
/// `Elsewhere` is another broker's inbox, kept while outcomes are being written of what was pushed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::inbox) enum Ownership {
    Acquiring,
    Elsewhere,
    Loading { since: Instant, epoch: Epoch },
    Owned { epoch: Epoch },
    Leaving { epoch: Epoch },
    GivingBack,
}

impl Ownership {
    /// Whether the table of changes has this one.
    pub(in crate::inbox) fn may_become(self, to: Self) -> bool {
        match self {
            Self::Acquiring => matches!(to, Self::Acquiring | Self::Loading { .. } | Self::Elsewhere),
            Self::Elsewhere | Self::GivingBack => to == Self::Acquiring,
            Self::Loading { epoch, .. } => match to {
                Self::Owned { epoch: e } | Self::Leaving { epoch: e } => e == epoch,
                _ => matches!(to, Self::Loading { .. } | Self::Acquiring),
            },
            Self::Owned { epoch } => match to {
                Self::Leaving { epoch: e } => e == epoch,
                _ => matches!(to, Self::Loading { .. } | Self::Acquiring),
            },
            Self::Leaving { .. } => {
                matches!(to, Self::Loading { .. } | Self::GivingBack | Self::Acquiring)
            }
        }
    }
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
    /// A refill is under way, which may have read older rows of the attempts that were settled since.
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
    /// The one place that writes the ownership.
    pub(in crate::inbox) fn turn_to(&mut self, to: Ownership) {
        debug_assert!(self.ownership.may_become(to), "{:?} became {to:?}", self.ownership);
        self.ownership = to;
    }

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
            Ownership::GivingBack => is_quiet && self.reading == Reading::Idle,
        };
        if is_legal {
            return Ok(());
        }
        let (ownership, question, reading) = (self.ownership, self.question, &self.reading);
        let (sessions, unsettled) = (self.sessions.len(), self.unsettled.len());
        Err(format!("{ownership:?}, {question:?}, {reading:?}, {sessions} sessions, {unsettled} unsettled"))
    }
}

#[cfg(test)]
mod tests;
