//! Inboxes: what waits for an agent, what is with it, and what comes next.
//!
//! Everything here is pure: it takes `now` and data, knows no socket and no SQL, and is tested in microseconds.
//! [`dispatcher::Dispatcher`] is the one owner of live state.

pub mod dispatcher;
pub mod event;
pub mod in_flight;
pub mod lane;
mod owned;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::message::Priority;

/// A session, unique in this broker's life.
pub type SessionId = u64;
/// A delivery within a session, counted from 1.
pub type Tag = u64;

/// What an entry costs besides its body: the entry itself, its place in the lane, its row's bookkeeping.
const ENTRY_BYTES: usize = 160;

/// A ready delivery, read from the table.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its row; the order of arrival.
    pub delivery_id: i64,
    /// Its message.
    pub message_id: Uuid,
    /// Which lane.
    pub priority: Priority,
    /// How many attempts failed so far.
    pub attempt: u32,
    /// When it was read, and how old the message was then by the database's clock.
    pub read_at: Instant,
    /// See [`read_at`](Self::read_at).
    pub age_when_read: Duration,
    /// After this it is not delivered any more.
    pub expires_at: Option<Instant>,
    /// The end of its `msg` line; `None` if it is over the limit and can only be a dead letter.
    pub body: Option<Bytes>,
}

impl Entry {
    /// What it costs in memory.
    pub fn cost_bytes(&self) -> usize {
        ENTRY_BYTES + self.body.as_ref().map_or(0, Bytes::len)
    }

    /// How old the message is.
    pub fn age(&self, now: Instant) -> Duration {
        self.age_when_read + now.saturating_duration_since(self.read_at)
    }
}
