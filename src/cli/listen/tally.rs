//! The counts of a listening process, told at its end.

use std::collections::HashMap;
use std::fmt;

use uuid::Uuid;

use super::exec::{Handled, HandlingEnd, name};
use super::summary;
use crate::cli::output;
use postbell_client::Delivery;

/// At most so many messages whose last attempt failed are remembered. If there are more, the process has failed for
/// good.
const FAILING_MAX: usize = 10_000;

/// The message that an outcome is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Of {
    pub(super) id: Uuid,
    pub(super) from: String,
    pub(super) message_type: String,
    attempt: u32,
}

#[cfg(test)]
impl Of {
    pub(super) fn named(text: &str) -> Self {
        Self { id: Uuid::nil(), from: text.to_owned(), message_type: text.to_owned(), attempt: 1 }
    }
}

impl From<&Delivery> for Of {
    fn from(delivery: &Delivery) -> Self {
        Self {
            id: delivery.id(),
            from: name(delivery.from()),
            message_type: name(delivery.message_type()),
            attempt: delivery.attempt(),
        }
    }
}

/// A message whose last attempt here failed, and why.
pub(super) struct Failing {
    pub(super) of: Of,
    pub(super) reason: String,
}

/// The counts of what became of deliveries.
#[derive(Default)]
pub(super) struct Tally {
    handled: u64,
    failed: u64,
    retried: u64,
    dead: u64,
    given_back: u64,
    /// A failure that no later success takes back: a message that could not be read, a fault of ours in the handling,
    /// or more failing messages than are remembered.
    has_failed: bool,
    failing: HashMap<Uuid, Failing>,
}

impl Tally {
    /// Counts an outcome. Returns the exit status if the outcome says that no further message can be handled.
    pub(super) fn count_joined(&mut self, joined: Result<Handled, tokio::task::JoinError>) -> Option<u8> {
        match joined {
            Ok(handled) => self.count(handled),
            Err(e) => {
                tracing::error!(error = %e, "the handling of a message ended by a fault of ours; it was given up");
                self.failed += 1;
                self.has_failed = true;
                None
            }
        }
    }

    /// Like [`count_joined`](Self::count_joined), for an outcome that is there.
    pub(super) fn count(&mut self, handled: Handled) -> Option<u8> {
        let Handled { of, end } = handled;
        self.retried += u64::from(of.attempt > 1);
        match end {
            HandlingEnd::Acked => {
                self.handled += 1;
                self.failing.remove(&of.id);
            }
            HandlingEnd::Failed(reason) | HandlingEnd::Untold(reason) => {
                self.failed += 1;
                self.fails(of, reason);
            }
            HandlingEnd::Dead(reason) => {
                self.dead += 1;
                self.fails(of, reason);
            }
            HandlingEnd::GivenBack => self.given_back += 1,
            HandlingEnd::NotStarted(reason, code) => {
                self.failed += 1;
                self.fails(of, reason);
                return Some(code);
            }
        }
        None
    }

    fn fails(&mut self, of: Of, reason: String) {
        if self.failing.len() < FAILING_MAX || self.failing.contains_key(&of.id) {
            self.failing.insert(of.id, Failing { of, reason });
        } else {
            self.has_failed = true;
        }
    }

    /// Counts a message of a type that is not handled here: somebody's choice, and no failure.
    pub(super) fn count_other(&mut self, is_dead: bool) {
        let counter = if is_dead { &mut self.dead } else { &mut self.given_back };
        *counter += 1;
    }

    /// Counts messages that could not be read; they are dead letters.
    pub(super) fn unreadable(&mut self, count: u64) {
        self.dead += count;
        self.has_failed |= count > 0;
    }

    pub(super) fn has_failures(&self) -> bool {
        self.has_failed || !self.failing.is_empty()
    }

    /// Writes the counts to standard error, and to the job's summary if there is one.
    pub(super) fn tell(&self, agent: &str) {
        output::fault(&self.to_string());
        summary::append(|| self.in_markdown(agent));
    }

    fn in_markdown(&self, agent: &str) -> String {
        let counts = [
            ("handled", self.handled),
            ("failed", self.failed),
            ("retried", self.retried),
            ("dead", self.dead),
            ("given back", self.given_back),
        ];
        let mut failing: Vec<&Failing> = self.failing.values().collect();
        // By id: time-ordered ids keep the order of creation.
        failing.sort_by_key(|failing| failing.of.id);
        summary::markdown(&name(agent), &counts, &failing)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { handled, failed, retried, dead, given_back, .. } = self;
        write!(
            f,
            "handled {handled}, failed {failed}, retried {retried}, dead {dead}, given back {given_back}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: u128, attempt: u32) -> Of {
        let name = |text: &str| text.to_owned();
        Of { id: Uuid::from_u128(id), from: name("s"), message_type: name("data"), attempt }
    }

    fn handled(id: u128, attempt: u32, end: HandlingEnd) -> Handled {
        Handled { of: of(id, attempt), end }
    }

    #[test]
    fn a_message_that_was_handled_in_the_end_is_no_failure() {
        let mut tally = Tally::default();
        tally.count(handled(1, 1, HandlingEnd::Failed("no".to_owned())));
        assert!(tally.has_failures());
        tally.count(handled(1, 2, HandlingEnd::Acked));
        assert!(!tally.has_failures());
        tally.count(handled(2, 1, HandlingEnd::GivenBack));
        tally.count_other(true);
        assert!(!tally.has_failures(), "as somebody chose");
        assert_eq!(tally.to_string(), "handled 1, failed 1, retried 1, dead 1, given back 1");
        tally.count(handled(3, 1, HandlingEnd::Dead("no".to_owned())));
        assert!(tally.has_failures());
        assert_eq!(tally.count(handled(4, 1, HandlingEnd::NotStarted("no".to_owned(), 127))), Some(127));
    }

    #[test]
    fn what_the_broker_was_not_told_is_a_failure_until_it_is() {
        let mut tally = Tally::default();
        tally.count(handled(1, 1, HandlingEnd::Untold("away".to_owned())));
        assert!(tally.has_failures() && tally.to_string().starts_with("handled 0, failed 1"));
        tally.count(handled(1, 2, HandlingEnd::Acked));
        assert!(!tally.has_failures());
    }

    #[test]
    fn what_could_not_be_read_is_a_failure() {
        let mut tally = Tally::default();
        tally.unreadable(0);
        assert!(!tally.has_failures());
        tally.unreadable(2);
        assert!(tally.has_failures() && tally.to_string().contains("dead 2"));
    }

    #[test]
    fn more_failing_messages_than_are_known_are_a_failure_still() {
        let mut tally = Tally::default();
        for id in 0..=FAILING_MAX as u128 {
            tally.count(handled(id, 1, HandlingEnd::Failed(String::new())));
        }
        for id in 0..=FAILING_MAX as u128 {
            tally.count(handled(id, 2, HandlingEnd::Acked));
        }
        assert!(tally.failing.is_empty() && tally.has_failures());
    }
}
