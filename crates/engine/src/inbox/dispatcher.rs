//! The one owner of live state: which session has which delivery, and what comes next.
//!
//! Pure: it is told what happened ([`Event`]) and collects what is to be done ([`Effect`]).

mod blame;
mod ownership;
mod pushing;
mod reading;
mod replies;
mod settling;
pub mod waiting;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::event::{Effect, Event, Snapshot};
use super::in_flight::InFlight;
use super::lane::{ROOM, ROOM_SCARCE, Room};
use super::owned::Inbox;
use super::{SessionId, Tag};
use crate::retry::RetryPolicy;
use postbell_client::protocol::{ErrorCode, ProtocolError};

pub use blame::IN_COMPANY;
pub use replies::REPLIES_WAITING_MAX;

/// All lanes together. Above it every lane keeps to [`ROOM_SCARCE`].
pub const LANES_BYTES_MAX: usize = 96 * 1024 * 1024;
/// What a session may hold unacknowledged, beside its window; one delivery is allowed whatever its size.
pub const SESSION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a session may hold of replies to its own process, beside its window: a handler that has asked waits for its
/// answer while it fills the window itself. In bytes as many as the window.
pub const REPLIES_MAX: u32 = 64;
/// Outcomes that wait to be written. Above it nothing is pushed: the database is slower than the agents, or
/// away, and what it does not know yet would be repeated after a crash.
pub const UNSETTLED_MAX: usize = 100_000;

const _: () = assert!(ROOM.bytes < LANES_BYTES_MAX);
const _: () = assert!(postbell_client::protocol::limits::LINE_BYTES_MAX <= SESSION_BYTES_MAX);
const _: () = assert!((postbell_client::protocol::limits::WINDOW_MAX as usize) < UNSETTLED_MAX);

/// How the dispatcher treats deliveries.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long an agent has for a delivery.
    pub ack_deadline: Duration,
    /// What becomes of a failed one.
    pub retry: RetryPolicy,
    /// A lease is not trusted for its last bit: clocks drift, and a push takes time.
    pub lease_margin: Duration,
}

struct Session {
    inbox: Arc<str>,
    instance: Option<String>,
    window: u32,
    /// All of them, and of these the replies beside the window.
    in_flight: u32,
    in_flight_bytes: usize,
    replies: u32,
    replies_bytes: usize,
    /// The longest it may hold one by extending.
    hold: Duration,
    /// It has said what it has begun with.
    says_begun: bool,
    /// It gets nothing until it has nothing, for the sake of what was set aside.
    reserved: bool,
    /// It has one of those.
    alone: bool,
    last_tag: Tag,
    /// Another broker's.
    link: bool,
    rank: Option<i64>,
    /// It was asked to leave: it gets nothing more.
    draining: bool,
    /// It was told to end.
    closing: bool,
}

/// A `ref` that is answered once all its outcomes are committed.
struct Answer {
    session: SessionId,
    reference: String,
    left: usize,
}

/// What of an inbox is here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Sessions on it.
    pub sessions: u64,
    /// Deliveries with them.
    pub in_flight: u64,
}

/// See the module.
pub struct Dispatcher {
    rules: Rules,
    sessions: HashMap<SessionId, Session>,
    inboxes: HashMap<Arc<str>, Inbox>,
    in_flight: InFlight,
    answers: HashMap<u64, Answer>,
    last_answer: u64,
    unsettled: usize,
    lanes_bytes: usize,
    snapshot: Option<Snapshot>,
    lease_until: Option<Instant>,
    /// When the last whole round of the tail began.
    tailed_at: Option<Instant>,
    stopping: bool,
    /// Inboxes that the open round of the tail brought something.
    in_round: Vec<Arc<str>>,
    /// Inboxes that became `Loading`, and may have become something else since: a round must not look at them all.
    loading: Vec<Arc<str>>,
    /// Inboxes of which a round of the tail must show what an ordering key waits for.
    returning: Vec<Arc<str>>,
    /// When an ordering key of these inboxes may go on.
    delayed: BTreeSet<(Instant, Arc<str>)>,
    /// Inboxes that may have something to push or to read.
    touched: Vec<Arc<str>>,
    effects: Vec<Effect>,
    rng: SmallRng,
}

impl Dispatcher {
    /// A dispatcher without a lease: it pushes nothing before [`Event::LeaseUntil`].
    pub fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules,
            sessions: HashMap::new(),
            inboxes: HashMap::new(),
            in_flight: InFlight::default(),
            answers: HashMap::new(),
            last_answer: 0,
            unsettled: 0,
            lanes_bytes: 0,
            snapshot: None,
            lease_until: None,
            tailed_at: None,
            stopping: false,
            in_round: Vec::new(),
            loading: Vec::new(),
            returning: Vec::new(),
            delayed: BTreeSet::new(),
            touched: Vec::new(),
            effects: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Takes note of what happened. Call [`advance`](Self::advance) after one or several.
    pub fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Join { session, inbox, instance, window, hold, link, rank } => {
                let new = Session {
                    inbox,
                    instance,
                    window,
                    in_flight: 0,
                    in_flight_bytes: 0,
                    replies: 0,
                    replies_bytes: 0,
                    hold: hold.max(self.rules.ack_deadline),
                    says_begun: false,
                    reserved: false,
                    alone: false,
                    last_tag: 0,
                    link,
                    rank,
                    draining: false,
                    closing: false,
                };
                self.join(now, session, new)
            }
            Event::Rejoin { session, above, trouble } => self.rejoin(now, session, above, trouble),
            Event::Drain(session) => self.drain(session),
            Event::Leave { session, written, by_broker } => self.leave(session, written, by_broker),
            Event::Request { session, request } => self.request(now, session, request),
            Event::Arrived(rows) => self.arrived(rows),
            Event::TailRound { started_at, snapshot } => self.tail_round(started_at, snapshot),
            Event::TailBroken => self.tail_broken(now),
            Event::Refilled { inbox, lanes, keys } => self.refilled(inbox, lanes, keys),
            Event::RefillFailed(inbox) => self.refill_failed(inbox),
            Event::Acquired { inbox, epoch } => self.acquired(now, inbox, epoch),
            Event::NotAcquired { inbox, owner } => self.not_acquired(inbox, owner),
            Event::Wanted(inboxes) => self.wanted(inboxes),
            Event::Released(inbox) => self.released(inbox),
            Event::Settled(settled) => self.settled(now, settled),
            Event::LeaseUntil(until) => self.lease_until(now, until),
            Event::LeaseLapsed => self.lease_lapsed(),
            Event::Stop => self.stopping = true,
        }
    }

    /// Does what time and the events since the last call make possible, and hands out what is to be done.
    pub fn advance(&mut self, now: Instant) -> Vec<Effect> {
        self.fail_overdue(now);
        self.wake_keys(now);
        let marks = self.in_flight.take_to_mark(now);
        if !marks.is_empty() {
            self.effects.push(Effect::Mark(marks));
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for inbox in touched {
            self.pump(now, &inbox);
        }
        std::mem::take(&mut self.effects)
    }

    /// When [`advance`](Self::advance) is due even if nothing happens.
    pub fn next_wake(&self) -> Option<Instant> {
        let key = self.delayed.first().map(|(at, _)| *at);
        self.in_flight.next_wake().into_iter().chain(key).min()
    }

    /// How many deliveries are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Who is here: each inbox with the sessions on it and what is with them. Links count for what they hold alone, since
    /// their sessions are at another broker.
    pub fn survey(&self) -> HashMap<Arc<str>, Here> {
        let mut found: HashMap<Arc<str>, Here> = HashMap::new();
        for session in self.sessions.values() {
            let here = found.entry(session.inbox.clone()).or_default();
            here.sessions += u64::from(!session.link);
            here.in_flight += u64::from(session.in_flight);
        }
        found
    }

    /// How many outcomes wait to be written.
    pub fn unsettled(&self) -> usize {
        self.unsettled
    }

    /// What the lanes cost in memory.
    pub fn lanes_bytes(&self) -> usize {
        self.lanes_bytes
    }

    /// Whether every inbox is given back: nothing of this broker is left in the leases.
    pub fn is_empty(&self) -> bool {
        self.inboxes.is_empty()
    }

    fn room(&self) -> Room {
        if self.lanes_bytes > LANES_BYTES_MAX { ROOM_SCARCE } else { ROOM }
    }

    fn may_push(&self, now: Instant) -> bool {
        !self.stopping
            && self.unsettled < UNSETTLED_MAX
            && self.lease_until.is_some_and(|until| now + self.rules.lease_margin < until)
    }

    /// Runs `change` on an inbox and keeps the sum of the lanes' bytes true.
    fn with_inbox<R>(&mut self, inbox: &Arc<str>, change: impl FnOnce(&mut Inbox) -> R) -> Option<R> {
        let state = self.inboxes.get_mut(inbox)?;
        let before = state.bytes();
        let result = change(state);
        self.lanes_bytes = self.lanes_bytes - before + state.bytes();
        Some(result)
    }

    fn refuse(&mut self, session: SessionId, code: ErrorCode, sentence: String, reference: Option<String>) {
        let error = ProtocolError::new(code, sentence).for_ref(reference);
        self.effects.push(Effect::Refuse(session, error));
    }

    /// Whether every inbox is in a state that it can be in; a sentence about one that is not. For simulations.
    ///
    /// # Errors
    /// The name of the inbox, and its state.
    pub fn check(&self) -> Result<(), String> {
        self.inboxes.iter().try_for_each(|(name, inbox)| {
            inbox.check().map_err(|state| format!("{name} is in no state that is written down: {state}"))
        })
    }

    /// What is known of each inbox, without the bodies.
    #[cfg(test)]
    pub(in crate::inbox) fn sketch(&self) -> String {
        self.inboxes.iter().map(|(name, inbox)| format!("{name}: {}\n", inbox.sketch())).collect()
    }
}
