//! The events, and to whom they happen.

use postbell_engine::inbox::event::Trouble;
use postbell_engine::inbox::{SessionId, Tag};
use uuid::Uuid;

use crate::network::{ConnId, Frame, Side};
use crate::schedule::Micros;
use crate::statements::{Ask, Query, Reply, Task};

/// Whom something happens to. A process that has died since does not see it, one that stands still sees it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    World,
    Broker(usize, u32),
    Agent(usize, u32),
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// A producer's statement, and its end.
    Insert(usize),
    Commit {
        txid: u64,
        rings: bool,
        rolls_back: bool,
    },
    /// A transaction goes on; a poller begins, and commits.
    Begin(usize),
    Producer(usize),
    Poll(usize),
    Polled {
        message: i64,
        deliveries: Vec<i64>,
        deletes: bool,
        may_be_routed: bool,
    },
    /// A statement of the router's goes on.
    Routing(u64),
    Fault(usize),
    FaultEnds(usize),
    /// A statement reaches the server; its answer leaves, unless it is lost.
    Execute {
        broker: usize,
        life: u32,
        query: Query,
        ask: Ask,
        answer: Option<Micros>,
    },
    Answer(Query, Result<Reply, ()>),
    /// The server ends a session that held the lock of the living.
    Unlock(Uuid, u64),
    /// A broker's clocks.
    Wake,
    TailDue,
    BringRows(u64),
    Ring,
    Canary(u64),
    LeaserDue,
    Connect(Task),
    SettlerDue,
    RefillerDue,
    RouterDue,
    Reap,
    LinkGivenUp(SessionId, ConnId),
    LinkAgain(SessionId, Option<Trouble>),
    /// From here on steps of the network.
    Frame(ConnId, Side, Frame),
    Silent(ConnId, Side),
    /// From here on steps of an agent.
    TryConnect,
    NotWelcomed(ConnId),
    Handled(ConnId, Tag),
    Starts,
}
