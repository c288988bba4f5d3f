//! Inboxes: what waits for an agent, what is with it, and what comes next.
//!
//! Everything here is pure: it takes `now` and data, knows no socket and no SQL, and is tested in microseconds.
//! [`dispatcher::Dispatcher`] is the one owner of live state.

pub mod dispatcher;
pub mod event;
pub mod in_flight;
pub mod lane;
mod order;
mod owned;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use postbell_client::message::{Priority, Trace};

/// A session, unique in this broker's life.
pub type SessionId = u64;
/// A delivery within a session, counted from 1.
pub type Tag = u64;

/// What an entry costs besides its body: the entry itself, its place in the lane, its row's bookkeeping.
const ENTRY_BYTES: usize = 160;
/// What its terms cost: two names and what holds them.
const TERMS_BYTES: usize = 160;

/// A ready delivery, read from the table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its row; the order of arrival.
    pub delivery_id: i64,
    /// Its message.
    pub message_id: Uuid,
    /// Which lane; see [`postbell_client::message::LANES`].
    pub lane: usize,
    /// How many attempts failed so far.
    pub attempt: u32,
    /// When it was read, and how old the message was then by the database's clock.
    pub read_at: Instant,
    /// See [`read_at`](Self::read_at).
    pub age_when_read: Duration,
    /// How long it can have been ready by then, at most: since its message was created, or since the round of the tail
    /// that did not show it yet. So a producer's long transaction, a delay and an earlier attempt are no part of it.
    pub ready_when_read: Duration,
    /// After this it is not delivered any more.
    pub expires_at: Option<Instant>,
    /// What most deliveries do not have.
    pub terms: Option<Box<Terms>>,
    /// The end of its `msg` line; `None` where it is [`unfit`](Self::unfit), or over the limit.
    pub body: Option<Bytes>,
}

/// To whom, and when, beside the order of the lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// This process, if it is there: a reply.
    pub instance: Option<Arc<str>>,
    /// One after the other with all others of the inbox that have this key.
    pub ordering_key: Option<Arc<str>>,
    /// The trace it belongs to, where traces are recorded.
    pub trace: Option<Trace>,
    /// How urgent it is where it is no reply to anybody here: what its lane was, but for [`instance`](Self::instance).
    pub priority: Priority,
    /// Its last attempt ended with its agent, which handled others as well: which of them it was is not known.
    pub in_company: bool,
    /// Why it has no body.
    pub unfit: Option<Unfit>,
}

/// Why a delivery cannot be pushed as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It was not read whole, since that may be dear: it stays in the table, and a refill of its inbox reads it.
    Left,
    /// It does not fit into a line; the sentence says what is too large.
    TooLarge(String),
    /// The table holds what cannot be read; the sentence says what.
    Unreadable(String),
}

impl Unfit {
    /// Why, for a person.
    pub fn sentence(&self) -> &str {
        match self {
            Self::Left => "it was not read",
            Self::TooLarge(what) | Self::Unreadable(what) => what,
        }
    }
}

impl Entry {
    /// The key that orders it, if one does.
    pub fn ordering_key(&self) -> Option<&Arc<str>> {
        self.terms.as_ref()?.ordering_key.as_ref()
    }

    fn set_ordering_key(&mut self, key: &Arc<str>) {
        self.terms.get_or_insert_default().ordering_key = Some(key.clone());
    }

    /// The trace it belongs to.
    pub fn trace(&self) -> Option<Trace> {
        self.terms.as_ref()?.trace
    }

    /// Why it has no body.
    pub fn unfit(&self) -> Option<&Unfit> {
        self.terms.as_ref()?.unfit.as_ref()
    }

    /// Whether it stays in the table, for a refill to read.
    pub fn is_left(&self) -> bool {
        self.unfit() == Some(&Unfit::Left)
    }

    /// The process it is a reply to.
    pub fn instance(&self) -> Option<&Arc<str>> {
        self.terms.as_ref()?.instance.as_ref()
    }

    /// The lane it is in where nobody waits for it as a reply.
    pub fn ordinary_lane(&self) -> usize {
        self.terms.as_ref().map_or(Priority::default(), |terms| terms.priority).lane()
    }

    /// See [`Terms::in_company`].
    pub fn was_in_company(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.in_company)
    }

    /// What it costs in memory.
    pub fn cost_bytes(&self) -> usize {
        let terms = self.terms.as_ref().map_or(0, |_| TERMS_BYTES);
        ENTRY_BYTES + terms + self.body.as_ref().map_or(0, Bytes::len)
    }

    /// How old the message is.
    pub fn age(&self, now: Instant) -> Duration {
        self.age_when_read + now.saturating_duration_since(self.read_at)
    }

    /// How long it can have been ready, at most.
    pub fn ready_for(&self, now: Instant) -> Duration {
        self.ready_when_read + now.saturating_duration_since(self.read_at)
    }
}
