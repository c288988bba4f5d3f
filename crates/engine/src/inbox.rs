//! Inboxes: the deliveries that wait for an agent, those in flight to the agent, and which comes next.
//!
//! Everything here is pure: it takes `now` and data, and knows no socket and no SQL. [`dispatcher::Dispatcher`]
//! is the one owner of live state.

pub mod dispatcher;
pub mod event;
mod ids;
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

pub use ids::{Attempt, DeliveryId, Epoch, Rank, SessionId, Tag};

/// The memory of an entry besides its body: the entry itself, its place in the lane, the bookkeeping of its
/// row.
const ENTRY_BYTES: usize = 160;
/// The memory of an entry's [`Terms`]: two names and the box that holds them.
const TERMS_BYTES: usize = 160;

/// A ready delivery, read from the table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The attempt that its push will be.
    pub attempt: Attempt,
    /// The id of its message.
    pub message_id: Uuid,
    /// The position of its lane; see [`postbell_client::message::LANES`].
    pub lane: usize,
    /// When the row was read, by this broker's clock.
    pub read_at: Instant,
    /// How old the message was at [`read_at`](Self::read_at), by the database's clock.
    pub age_when_read: Duration,
    /// The longest that the delivery can have been ready at [`read_at`](Self::read_at): since its message was
    /// created, or since the tail round that did not show it yet. A producer's long transaction, a delay and an
    /// earlier attempt do not count.
    pub ready_when_read: Duration,
    /// From this moment on the message is expired and is not delivered any more.
    pub expires_at: Option<Instant>,
    /// The conditions that most deliveries do not have.
    pub terms: Option<Box<Terms>>,
    /// The end of its `msg` line; `None` if the delivery is [`unfit`](Self::unfit), or the line would be over
    /// the limit.
    pub body: Option<Bytes>,
}

/// The conditions of a delivery beside the order of its lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// A reply to the process of this name, if that process is connected here.
    pub instance: Option<Arc<str>>,
    /// The deliveries of the inbox with this key are handled one after the other.
    pub ordering_key: Option<Arc<str>>,
    /// The trace it belongs to, where traces are recorded.
    pub trace: Option<Trace>,
    /// The message's priority: a reply (lane 0) whose process is not here is treated by this.
    pub priority: Priority,
    /// The last attempt ended when the agent disconnected with several deliveries in hand: which one is to
    /// blame is unknown.
    pub in_company: bool,
    /// Why the delivery has no body.
    pub unfit: Option<Unfit>,
}

/// The sentence for `last_error` of a delivery whose message could not be seen. `sql/queries/doctor_unrouted.sql` counts by it.
pub const UNSEEN: &str = "its message cannot be seen";

/// Why a delivery cannot be pushed as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The payload was not read, since reading it may be expensive: it stays in the table, and a refill of the
    /// inbox reads it.
    Left,
    /// The message does not fit into a line; the sentence says what is too large.
    TooLarge(String),
    /// The row cannot be read; the sentence says why.
    Unreadable(String),
    /// The delivery is there, and its message cannot be seen: row level security hides it, or it was deleted past the
    /// triggers.
    Unseen,
}

impl Unfit {
    /// The reason, as a sentence for a person.
    pub fn sentence(&self) -> &str {
        match self {
            Self::Left => "it was not read",
            Self::Unseen => UNSEEN,
            Self::TooLarge(what) | Self::Unreadable(what) => what,
        }
    }
}

impl Entry {
    /// The key that orders the delivery, if it has one.
    pub fn ordering_key(&self) -> Option<&Arc<str>> {
        self.terms.as_ref()?.ordering_key.as_ref()
    }

    fn set_ordering_key(&mut self, key: &Arc<str>) {
        self.terms.get_or_insert_default().ordering_key = Some(key.clone());
    }

    /// The trace that the delivery belongs to.
    pub fn trace(&self) -> Option<Trace> {
        self.terms.as_ref()?.trace
    }

    /// Why the delivery has no body.
    pub fn unfit(&self) -> Option<&Unfit> {
        self.terms.as_ref()?.unfit.as_ref()
    }

    /// Whether the payload stays in the table for a refill to read.
    pub fn is_left(&self) -> bool {
        self.unfit() == Some(&Unfit::Left)
    }

    /// The process that the delivery is a reply to.
    pub fn instance(&self) -> Option<&Arc<str>> {
        self.terms.as_ref()?.instance.as_ref()
    }

    /// The lane of its priority, where it queues if nobody here waits for it as a reply.
    pub fn ordinary_lane(&self) -> usize {
        self.terms.as_ref().map_or(Priority::default(), |terms| terms.priority).lane()
    }

    /// Whether its last attempt failed in company; see [`Terms::in_company`].
    pub fn was_in_company(&self) -> bool {
        self.terms.as_ref().is_some_and(|terms| terms.in_company)
    }

    /// The memory of the entry, in bytes.
    pub fn cost_bytes(&self) -> usize {
        let terms = self.terms.as_ref().map_or(0, |_| TERMS_BYTES);
        ENTRY_BYTES + terms + self.body.as_ref().map_or(0, Bytes::len)
    }

    /// How old the message is.
    pub fn age(&self, now: Instant) -> Duration {
        self.age_when_read + now.saturating_duration_since(self.read_at)
    }

    /// The longest that the delivery can have been ready.
    pub fn ready_for(&self, now: Instant) -> Duration {
        self.ready_when_read + now.saturating_duration_since(self.read_at)
    }
}
