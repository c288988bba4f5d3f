//! What the dispatcher is told, and what it wants done.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use super::{Entry, SessionId, Tag};
use postbell_client::message::Trace;
use postbell_client::protocol::{ErrorCode, ProtocolError};

/// A snapshot of the database as text: the tail has brought every row that is visible in it.
pub type Snapshot = Arc<str>;

/// What an agent asks of the deliveries it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// These are handled.
    Ack {
        /// Which.
        tags: Vec<Tag>,
        /// Answer with `acked` after COMMIT.
        reference: Option<String>,
    },
    /// Give it back, not counted.
    Release {
        /// Which.
        tag: Tag,
        /// Not before this.
        delay: Duration,
    },
    /// It failed.
    Fail {
        /// Which.
        tag: Tag,
        /// Not before this; by the retry policy where the agent says nothing.
        delay: Option<Duration>,
        /// For the dead letter, should it become one.
        reason: String,
    },
    /// To the dead letters.
    Dead {
        /// Which.
        tag: Tag,
        /// Why.
        reason: String,
    },
    /// A later deadline.
    Extend {
        /// Which.
        tag: Tag,
        /// From now.
        by: Duration,
    },
    /// A new window.
    Window(u32),
    /// The agent has begun with these: should it end now, it was one of them.
    Begun {
        /// Which.
        tags: Vec<Tag>,
    },
}

/// The broker that an inbox belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its id.
    pub broker: Uuid,
    /// Where it can be reached.
    pub address: Arc<str>,
    /// The SHA-256 of its certificate, where it speaks TLS.
    pub certificate: Option<Arc<str>>,
}

/// An owner that cannot be reached by the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Which.
    pub owner: Uuid,
    /// Nobody listens at its address: its process may be dead.
    pub refuses: bool,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// An authenticated session asks for its agent's inbox.
    Join {
        /// Its id.
        session: SessionId,
        /// Its agent's inbox.
        inbox: Arc<str>,
        /// Another session of this agent and instance ends.
        instance: Option<String>,
        /// The most unacknowledged deliveries it takes.
        window: u32,
        /// The longest it may hold a delivery by extending its deadline, from the push.
        hold: Duration,
        /// It is another broker's, for a session of its own; it never makes this one ask for the inbox.
        link: bool,
        /// Of sessions of one agent and instance the highest goes on; where one has none, the last that came.
        rank: Option<i64>,
    },
    /// A session whose inbox was elsewhere has lost its link, and asks again.
    Rejoin {
        /// Which.
        session: SessionId,
        /// Its tags go on above this one.
        above: Tag,
        /// How the owner was lost.
        trouble: Option<Trouble>,
    },
    /// A session is asked to leave: it gets nothing more.
    Drain(SessionId),
    /// A session ended.
    Leave {
        /// Which.
        session: SessionId,
        /// The last tag that was written to its socket.
        written: Tag,
        /// Whether the broker ended it: then nothing counts as the agent's failure.
        by_broker: bool,
    },
    /// A session asks.
    Request {
        /// Which.
        session: SessionId,
        /// What.
        request: Request,
    },
    /// The tail read these.
    Arrived(Vec<(Arc<str>, Entry)>),
    /// A round of the tail is whole: everything visible in its snapshot was brought.
    TailRound {
        /// When its statement was sent.
        started_at: Instant,
        /// Its snapshot.
        snapshot: Snapshot,
    },
    /// A round of the tail failed after it had brought some rows.
    TailBroken,
    /// A refill came.
    Refilled {
        /// Which inbox.
        inbox: Arc<str>,
        /// Per lane: its position, the rows asked for, and the rows.
        lanes: Vec<(usize, usize, Vec<Entry>)>,
        /// And per key.
        keys: Vec<KeyRows>,
    },
    /// A refill could not be read.
    RefillFailed(Arc<str>),
    /// The inbox is this broker's.
    Acquired {
        /// Which.
        inbox: Arc<str>,
        /// The number of this ownership, never used twice.
        epoch: i64,
    },
    /// The inbox is another live broker's; of which, if that is known.
    NotAcquired {
        /// Which.
        inbox: Arc<str>,
        /// Whose.
        owner: Option<Owner>,
    },
    /// Other brokers have sessions for these inboxes and cannot reach this one by the network.
    Wanted(Vec<Arc<str>>),
    /// The inbox was given back.
    Released(Arc<str>),
    /// These outcomes are committed.
    Settled(Vec<Settle>),
    /// This broker may dispatch until then.
    LeaseUntil(Instant),
    /// The broker's lease had ended before it was renewed: another may have taken its inboxes.
    /// Told before the [`LeaseUntil`](Self::LeaseUntil) of that renewal, so that nothing is pushed in between.
    LeaseLapsed,
    /// Push nothing more: the broker is stopping.
    Stop,
}

/// Why a delivery counts as failed: a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailCause {
    /// The agent said so.
    Nack,
    /// Its deadline passed.
    Deadline,
    /// Its session ended.
    Disconnect,
}

/// Why a delivery is dead: a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeadCause {
    /// Its last attempt failed.
    MaxAttempts,
    /// The agent said so.
    Rejected,
    /// It does not fit into a line.
    PayloadTooLarge,
    /// Its row cannot be read.
    Unreadable,
}

impl DeadCause {
    /// Whether an agent had it, so that an attempt is counted.
    pub fn was_tried(self) -> bool {
        matches!(self, Self::MaxAttempts | Self::Rejected)
    }
}

/// What becomes of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, this long after it was pushed.
    Ack {
        /// From the push to the ack.
        handled: Duration,
    },
    /// Ready again after `delay`, with the same attempt.
    Release {
        /// Zero: at once.
        delay: Duration,
    },
    /// Ready again after `delay`, with the next attempt.
    Fail {
        /// Zero: at once.
        delay: Duration,
        /// Which kind of failure.
        cause: FailCause,
        /// The sentence for `last_error`.
        reason: String,
    },
    /// Ready again at once, with the same attempt and a reason: its agent ended while it handled this and others.
    Spare {
        /// The sentence for `last_error`.
        reason: String,
    },
    /// A reply that nobody here waits for: to the lane of its priority.
    Relane {
        /// Which.
        lane: usize,
    },
    /// A dead letter.
    Dead {
        /// Which kind.
        cause: DeadCause,
        /// The sentence for `last_error`.
        reason: String,
    },
    /// Too late to deliver.
    Expired,
}

impl Outcome {
    /// How long until it is tried again, if it is.
    pub(super) fn delay(&self) -> Option<Duration> {
        match self {
            Self::Release { delay } | Self::Fail { delay, .. } => Some(*delay),
            Self::Spare { .. } => Some(Duration::ZERO),
            Self::Ack { .. } | Self::Relane { .. } | Self::Dead { .. } | Self::Expired => None,
        }
    }

    /// Written as ready: somebody else sees to the delay.
    pub(super) fn go_at_once(&mut self) {
        if let Self::Release { delay } | Self::Fail { delay, .. } = self {
            *delay = Duration::ZERO;
        }
    }
}

/// An outcome to write. It is compared with the attempt, so one that comes too late changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settle {
    /// The inbox it is of.
    pub inbox: Arc<str>,
    /// Its row.
    pub delivery_id: i64,
    /// How many attempts had failed when it was pushed.
    pub attempt: u32,
    /// What becomes of it.
    pub outcome: Outcome,
    /// The `ref` that is answered when it and its siblings are settled.
    pub answer: Option<u64>,
}

/// A delivery for a session.
#[derive(Clone, Debug)]
pub struct Push {
    /// Its tag in this session.
    pub tag: Tag,
    /// Its row.
    pub delivery_id: i64,
    /// Its message.
    pub message_id: Uuid,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How long the agent has.
    pub deadline: Duration,
    /// How old the message is at this moment, and when that was.
    pub age: (Duration, Instant),
    /// How long it waited for the broker until then: it was ready, and a session had room.
    pub waited: Duration,
    /// The trace it belongs to.
    pub trace: Option<Trace>,
    /// The end of its `msg` line.
    pub body: Bytes,
}

/// Rows wanted from one lane: those above an id, at most so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneRefill {
    /// The lane's position.
    pub lane: usize,
    /// Only rows with a higher id.
    pub above: i64,
    /// At most so many.
    pub rows: usize,
}

/// Rows wanted of one ordering key, whatever their priorities: those above an id, at most so many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRefill {
    /// The key.
    pub key: Arc<str>,
    /// Only rows with a higher id.
    pub above: i64,
    /// At most so many.
    pub rows: usize,
}

/// The rows of one: the key, the rows asked for, and the rows.
pub type KeyRows = (Arc<str>, usize, Vec<Entry>);

/// Rows wanted for an inbox: only those visible in the snapshot, since the tail brings the others.
#[derive(Clone, Debug)]
pub struct Refill {
    /// Whose.
    pub inbox: Arc<str>,
    /// What the tail has brought.
    pub snapshot: Snapshot,
    /// Which lanes.
    pub lanes: Vec<LaneRefill>,
    /// The ordering keys that the lanes leave out.
    pub passed: Arc<[Arc<str>]>,
    /// Which keys are read on by themselves.
    pub keys: Vec<KeyRefill>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Write a delivery to a session.
    Push(SessionId, Push),
    /// The request with this `ref` is committed.
    Acked(SessionId, String),
    /// A request was refused.
    Refuse(SessionId, ProtocolError),
    /// End a session.
    Close(SessionId, ErrorCode),
    /// Write an outcome.
    Settle(Settle),
    /// Mark these messages `delivered`.
    Mark(Vec<Uuid>),
    /// The session's inbox is another broker's: link to it. Its tags went up to the last number.
    Elsewhere(SessionId, Owner, Tag),
    /// Ask for an inbox's lease. It is answered once, and an epoch is never used twice.
    Acquire(Arc<str>, Option<Trouble>),
    /// Give an inbox's lease back.
    Release(Arc<str>),
    /// Read more of an inbox. It is answered once, by the rows or the failure.
    Refill(Refill),
    /// Start a round of the tail now.
    WakeTail,
}
