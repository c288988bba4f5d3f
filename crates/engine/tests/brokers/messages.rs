//! The table of messages, with what is left to the router: the columns `txid` and `arrival`, the sequence `postbell.routed`, and
//! what a statement sees of them. Unlike elsewhere, a statement here takes its time: its sight is from its beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::database::{Database, Row, Seen, State};
use crate::plants::Plant;
use crate::routing::RouterRow;
use crate::schedule::{MS, Micros};

/// So many rows of one transaction may be left (1,000 there).
pub(crate) const LEFT_MAX: usize = 6;

/// The number of a step: what committed in an earlier one than a statement's first was seen by it.
pub(crate) type Moment = u64;

/// A row of `agent_messages`.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) to: Vec<Arc<str>>,
    pub(crate) is_broadcast: bool,
    pub(crate) lane: usize,
    /// The transaction that inserts it; the column `txid`, if it is left.
    pub(crate) xid: u64,
    pub(crate) is_left: bool,
    /// From a sequence of which each session keeps a part.
    pub(crate) arrival: u64,
    /// The moment of its statement's snapshot.
    pub(crate) began: Moment,
    pub(crate) committed: Option<Moment>,
    /// Processed, or deleted.
    pub(crate) over: Option<Moment>,
    pub(crate) is_deleted: bool,
    /// A poller has ended it.
    pub(crate) is_polled: bool,
    /// Nothing is said of its order: the router was silent for too long, or had failed.
    pub(crate) is_excused: bool,
}

/// The sight of a snapshot.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub(crate) seen: Seen,
    pub(crate) routed: Seen,
    pub(crate) moment: Moment,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Messages {
    pub(crate) rows: BTreeMap<i64, Message>,
    last_id: i64,
    /// Transactions that have an id and have not ended.
    pub(crate) running: BTreeSet<u64>,
    moment: Moment,
    /// `postbell.routed`, by the database's clock.
    pub(crate) until: Micros,
    pub(crate) broadcasts: BTreeSet<i64>,
    /// Ended by a poller while the router may have been routing them.
    pub(crate) unseen: BTreeSet<i64>,
    pub(crate) router: RouterRow,
}

impl Messages {
    pub(crate) fn next_moment(&mut self) -> Moment {
        self.moment += 1;
        self.moment
    }

    pub(crate) fn insert(&mut self, message: Message) -> i64 {
        self.last_id += 1;
        self.rows.insert(self.last_id, message);
        self.last_id
    }

    /// The ack of a message for one; one for many is not marked while anybody looks.
    pub(crate) fn is_settled(&mut self, id: i64) {
        let moment = self.next_moment();
        if let Some(message) = self.rows.get_mut(&id).filter(|m| !m.is_broadcast) {
            message.over.get_or_insert(moment);
        }
    }

    /// The probe: whether a left message is there that is not routed, in this sight or in the transaction itself.
    pub(crate) fn shows_unrouted(&self, view: &View, own: Option<u64>) -> bool {
        let is_gone = |m: &Message| m.is_deleted && m.over.is_some_and(|at| at < view.moment);
        let is_there = |m: &Message| own == Some(m.xid) || (view.seen.shows(m.xid) && !is_gone(m));
        self.rows.values().any(|m| m.is_left && !view.routed.shows(m.xid) && is_there(m))
    }

    /// Left messages of which nobody has made deliveries, of transactions that have not rolled back.
    pub(crate) fn unrouted(&self) -> impl Iterator<Item = (i64, &Message)> {
        let routed = &self.router.routed;
        let left = self.rows.iter().filter(|(_, m)| m.is_left && !m.is_deleted && !routed.shows(m.xid));
        left.map(|(id, m)| (*id, m))
    }
}

impl Database {
    pub(crate) fn view(&mut self) -> View {
        let routed = self.messages.router.routed.clone();
        View { seen: self.snapshot(), routed, moment: self.messages.next_moment() }
    }

    /// A transaction gets its id.
    pub(crate) fn begin_writing(&mut self) -> u64 {
        let xid = self.take_txid();
        self.messages.running.insert(xid);
        xid
    }

    pub(crate) fn take_delivery_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    /// triggers/leave.sql, after it has drawn the transaction's id: whether the row is left, and whether its order is excused.
    pub(crate) fn is_left(&self, now: Micros, view: &View, own: Option<u64>, rows: usize) -> bool {
        let until = self.messages.until;
        if rows >= LEFT_MAX {
            false
        } else if until > now {
            true
        } else if until + PROBED < now || self.plant == Some(Plant::NoProbe) {
            false
        } else {
            self.messages.shows_unrouted(view, own)
        }
    }

    /// A delivery of a message, as it is inserted.
    pub(crate) fn delivery(&self, id: i64, message: &Message, inbox: &Arc<str>, txid: u64) -> Row {
        Row {
            inbox: inbox.clone(),
            lane: message.lane,
            key: None,
            bytes: 100,
            attempt: 0,
            in_company: false,
            state: State::Ready,
            txid,
            message: id,
        }
    }

    pub(crate) fn has_delivery(&self, message: i64, inbox: &Arc<str>) -> bool {
        self.rows.values().any(|row| row.message == message && row.inbox == *inbox)
    }
}

pub(crate) const LEFT: Micros = postbell_engine::router::LEFT_FOR.as_millis() as Micros * MS;
pub(crate) const PROBED: Micros = postbell_engine::router::PROBED_FOR.as_millis() as Micros * MS;
