//! The dispatcher's input ([`Event`]) and output ([`Effect`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::{Attempt, DeliveryId, Entry, Epoch, Rank, SessionId, Tag};
use postbell_client::message::Trace;
use postbell_client::protocol::{ErrorCode, ProtocolError};

/// A snapshot of the database as text: the tail has brought every row that is visible in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(pub Arc<str>);

impl From<&str> for Snapshot {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// A request of an agent about its deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// These deliveries are handled.
    Ack {
        /// The deliveries that are handled.
        tags: Vec<Tag>,
        /// If given: answer with `acked` and this `ref` after COMMIT.
        reference: Option<String>,
    },
    /// Give the delivery back; the attempt is not counted.
    Release {
        /// The delivery that is given back.
        tag: Tag,
        /// How long it must wait before the next push.
        delay: Duration,
    },
    /// The attempt failed.
    Fail {
        /// The delivery whose attempt failed.
        tag: Tag,
        /// How long it must wait before the next push; `None`: as the retry policy says.
        delay: Option<Duration>,
        /// The reason for `last_error`.
        reason: String,
    },
    /// Make the delivery a dead letter at once.
    Dead {
        /// The delivery that is given up.
        tag: Tag,
        /// The reason for `last_error`.
        reason: String,
    },
    /// Move the deadline.
    Extend {
        /// The delivery whose deadline is moved.
        tag: Tag,
        /// The new deadline, counted from now.
        by: Duration,
    },
    /// Change the session's window.
    Window(u32),
    /// The agent has begun with these deliveries, so they are blamed if its session ends now.
    Begun {
        /// The deliveries that were begun.
        tags: Vec<Tag>,
    },
}

/// The broker that an inbox belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The broker's id.
    pub broker: Uuid,
    /// The address at which the broker can be reached.
    pub address: Arc<str>,
    /// The SHA-256 of the broker's certificate, if it speaks TLS.
    pub certificate: Option<Arc<str>>,
}

/// An owner that cannot be reached by the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The owner's id.
    pub owner: Uuid,
    /// Nobody listens at its address, so its process may be dead.
    pub refuses: bool,
}

/// An input of the dispatcher: something has happened.
#[derive(Debug)]
pub enum Event {
    /// An authenticated session asks for its agent's inbox.
    Join {
        /// The session's id.
        session: SessionId,
        /// The inbox of its agent or group.
        inbox: Arc<str>,
        /// Other sessions with the same agent and instance end.
        instance: Option<String>,
        /// The most deliveries that the session may have in flight.
        window: u32,
        /// The longest that the session may hold a delivery by extending its deadline, counted from the push.
        hold: Duration,
        /// Whether the session is a link of another broker. A link never makes this broker ask for the inbox.
        link: bool,
        /// Among sessions with the same agent and instance, the one with the highest rank goes on; if one of
        /// two has no rank, the one that joined last.
        rank: Option<Rank>,
    },
    /// A session whose inbox was elsewhere has lost its link and asks again.
    Rejoin {
        /// The session's id.
        session: SessionId,
        /// The session's next tags must be above this one.
        above: Tag,
        /// How the owner was lost, if it cannot be reached.
        trouble: Option<Trouble>,
    },
    /// A session is asked to leave: nothing more is pushed to it.
    Drain(SessionId),
    /// A session ended.
    Leave {
        /// The session's id.
        session: SessionId,
        /// The last tag that was written to its socket.
        written: Tag,
        /// Whether the broker ended the session: then no delivery is blamed.
        by_broker: bool,
    },
    /// A session asks something.
    Request {
        /// The session's id.
        session: SessionId,
        /// A request that the session's agent made.
        request: Request,
    },
    /// Rows that the tail read.
    Arrived(Vec<(Arc<str>, Entry)>),
    /// A tail round has ended: every row that is visible in its snapshot was brought.
    TailRound {
        /// When its statement was sent.
        started_at: Instant,
        /// The snapshot that the round read.
        snapshot: Snapshot,
    },
    /// A tail round failed after it had brought some rows.
    TailBroken,
    /// The rows of a refill came.
    Refilled {
        /// The inbox that was refilled.
        inbox: Arc<str>,
        /// The rows of each lane.
        lanes: Vec<LaneRows>,
        /// The rows of each ordering key.
        keys: Vec<KeyRows>,
    },
    /// The refill of this inbox failed.
    RefillFailed(Arc<str>),
    /// This broker has the lease of an inbox.
    Acquired {
        /// The inbox that is served from now on.
        inbox: Arc<str>,
        /// The number of this ownership, never used twice.
        epoch: Epoch,
    },
    /// Another broker has the lease of an inbox.
    NotAcquired {
        /// The inbox that is served elsewhere.
        inbox: Arc<str>,
        /// The owner; `None` if it is not known.
        owner: Option<Owner>,
    },
    /// Other brokers have sessions for these inboxes and cannot reach this broker by the network.
    Wanted(Vec<Arc<str>>),
    /// The lease of this inbox was given back.
    GivenBack(Arc<str>),
    /// These outcomes are committed.
    Settled(Vec<Settle>),
    /// This broker's own lease is renewed: it may push until this moment.
    LeaseUntil(Instant),
    /// This broker's own lease had ended before it was renewed, so another broker may have taken its inboxes.
    /// Sent before the [`LeaseUntil`](Self::LeaseUntil) of that renewal, so that nothing is pushed in between.
    LeaseLapsed,
    /// The leases of these inboxes were not this broker's any more when it looked, though its own lease lived.
    LeasesLost(Vec<Arc<str>>),
    /// The broker is stopping: nothing more is pushed.
    Stop,
}

/// Why an attempt failed; the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailCause {
    /// The agent sent a `nack`.
    Nack,
    /// The deadline passed.
    Deadline,
    /// The session ended.
    Disconnect,
}

/// Why a delivery is dead; the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadCause {
    /// The last attempt failed.
    MaxAttempts,
    /// The agent asked for a dead letter.
    Rejected,
    /// The message does not fit into a line.
    PayloadTooLarge,
    /// The row cannot be read.
    Unreadable,
}

impl DeadCause {
    /// Whether an agent had the delivery, so that an attempt is counted.
    pub fn was_tried(self) -> bool {
        matches!(self, Self::MaxAttempts | Self::Rejected)
    }
}

/// The end of an attempt, to be written to the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged by the agent.
    Ack {
        /// The time from the push to the ack.
        handled: Duration,
    },
    /// Ready again after `delay`, with the same attempt.
    Release {
        /// Zero: ready at once.
        delay: Duration,
    },
    /// Ready again after `delay`, with the next attempt.
    Fail {
        /// Zero: ready at once.
        delay: Duration,
        /// The kind of failure.
        cause: FailCause,
        /// The sentence for `last_error`.
        reason: String,
    },
    /// Ready again at once, with the same attempt: its last attempt failed in company, which makes no dead
    /// letter.
    Spare {
        /// The sentence for `last_error`.
        reason: String,
    },
    /// A reply whose process is not here moves to the lane of its priority.
    Relane {
        /// The position of that lane.
        lane: usize,
    },
    /// A dead letter.
    Dead {
        /// The kind of reason.
        cause: DeadCause,
        /// The sentence for `last_error`.
        reason: String,
    },
    /// The message expired before an agent acknowledged it.
    Expired,
    /// The message cannot be seen: the delivery keeps its place, and is looked at again after `delay`.
    Unseen {
        /// Never zero.
        delay: Duration,
    },
}

impl Outcome {
    /// How long until the next attempt; `None` if there is none.
    pub(super) fn delay(&self) -> Option<Duration> {
        match self {
            Self::Release { delay } | Self::Fail { delay, .. } => Some(*delay),
            Self::Spare { .. } => Some(Duration::ZERO),
            Self::Ack { .. }
            | Self::Relane { .. }
            | Self::Dead { .. }
            | Self::Expired
            | Self::Unseen { .. } => None,
        }
    }

    /// Drops the delay: the row is written as ready, and the ordering key keeps the delay in memory.
    pub(super) fn go_at_once(&mut self) {
        if let Self::Release { delay } | Self::Fail { delay, .. } = self {
            *delay = Duration::ZERO;
        }
    }
}

/// An outcome to write. The statement compares the attempt, so an outcome that comes too late changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The inbox of the delivery.
    pub inbox: Arc<str>,
    /// The attempt that ends.
    pub attempt: Attempt,
    /// The change to be written.
    pub outcome: Outcome,
    /// The number of the `ref` that is answered once this and the other outcomes of its request are settled.
    pub answer: Option<u64>,
}

/// A delivery for a session.
#[derive(Clone, Debug)]
pub struct Push {
    /// The delivery's tag in this session.
    pub tag: Tag,
    /// The attempt that begins.
    pub attempt: Attempt,
    /// The id of its message.
    pub message_id: Uuid,
    /// How long the agent has until the deadline.
    pub deadline: Duration,
    /// The age of the message, and the moment at which it had that age.
    pub age: (Duration, Instant),
    /// How long the delivery waited for the broker: it was ready, and a session had room.
    pub waited: Duration,
    /// The trace that the delivery belongs to.
    pub trace: Option<Trace>,
    /// The end of its `msg` line.
    pub body: Bytes,
}

/// Rows wanted for one lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRefill {
    /// The lane's position.
    pub lane: usize,
    /// Only rows with a higher id are wanted.
    pub above: DeliveryId,
    /// The most rows wanted.
    pub rows: usize,
}

/// Rows wanted of one ordering key, whatever their priorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRefill {
    /// The ordering key whose rows are wanted.
    pub key: Arc<str>,
    /// Only rows with a higher id are wanted.
    pub above: DeliveryId,
    /// The most rows wanted.
    pub rows: usize,
}

/// The answer for one lane.
#[derive(Clone, Debug)]
pub struct LaneRows {
    /// The lane's position.
    pub lane: usize,
    /// The number of rows asked for.
    pub asked: usize,
    /// The rows.
    pub rows: Vec<Entry>,
}

/// The answer for one ordering key.
#[derive(Clone, Debug)]
pub struct KeyRows {
    /// The ordering key.
    pub key: Arc<str>,
    /// The number of rows asked for.
    pub asked: usize,
    /// The rows.
    pub rows: Vec<Entry>,
}

/// Rows wanted for an inbox: only rows that the snapshot shows, since the tail brings the others.
#[derive(Clone, Debug)]
pub struct Refill {
    /// The inbox whose rows are wanted.
    pub inbox: Arc<str>,
    /// The snapshot up to which the tail has brought every row.
    pub snapshot: Snapshot,
    /// The lanes to read on.
    pub lanes: Vec<LaneRefill>,
    /// The ordering keys that the lanes leave out.
    pub passed: Arc<[Arc<str>]>,
    /// The ordering keys that are read by themselves.
    pub keys: Vec<KeyRefill>,
}

/// An output of the dispatcher: something is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Write a delivery to a session.
    Push(SessionId, Push),
    /// Tell the session that the request with this `ref` is committed.
    Acked(SessionId, String),
    /// Tell the session that a request was refused.
    Refuse(SessionId, ProtocolError),
    /// End a session.
    Close(SessionId, ErrorCode),
    /// Write an outcome.
    Settle(Settle),
    /// Mark these messages `delivered`.
    Mark(Vec<Uuid>),
    /// The session's inbox belongs to another broker: link to that. The number is the last tag that the session
    /// was given.
    Elsewhere(SessionId, Owner, Tag),
    /// Ask for the lease of an inbox. The answer is [`Event::Acquired`] or [`Event::NotAcquired`]; after a
    /// `NotAcquired` without an owner the leaser asks again by itself, so another answer follows.
    Acquire(Arc<str>, Option<Trouble>),
    /// Give the lease of an inbox back.
    GiveBack(Arc<str>),
    /// Read more of an inbox. There is exactly one answer, [`Event::Refilled`] or [`Event::RefillFailed`].
    Refill(Refill),
    /// Start a tail round now.
    WakeTail,
}
