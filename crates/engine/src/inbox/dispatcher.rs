//! The one owner of live state: which session has which delivery, and what comes next.
//!
//! Pure: it takes what happened ([`Event`]) and collects what is to be done ([`Effect`]).

mod blame;
mod ownership;
mod pushing;
mod reading;
mod replies;
mod settling;
mod shares;
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
use super::{Rank, SessionId, Tag};
use crate::retry::RetryPolicy;
use postbell_client::protocol::{ErrorCode, ProtocolError};
use shares::Shares;

pub use blame::IN_COMPANY;
pub use replies::REPLIES_WAITING_MAX;

/// The bound of the memory of all lanes together. Above this bound each lane keeps to [`ROOM_SCARCE`].
pub const LANES_BYTES_MAX: usize = 96 * 1024 * 1024;
/// The most bytes that a session may have in flight, beside its window; one delivery is allowed whatever its
/// size.
pub const SESSION_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The most replies to its own process that a session may have in flight beside its window: a handler that asks
/// and waits fills the window itself, so the answer could not come otherwise. Their bytes have the bound
/// [`SESSION_BYTES_MAX`] too.
pub const REPLIES_MAX: u32 = 64;
/// The most outcomes that wait to be written, shared among the inboxes: see [`Dispatcher::held_back`]. More wait only
/// if the database is slower than the agents, or away, and after a crash every delivery with an unwritten outcome
/// would be pushed again.
pub const UNSETTLED_MAX: usize = 100_000;

const _: () = assert!(ROOM.bytes < LANES_BYTES_MAX);
const _: () = assert!(postbell_client::protocol::limits::LINE_BYTES_MAX <= SESSION_BYTES_MAX);
const _: () = assert!((postbell_client::protocol::limits::WINDOW_MAX as usize) < UNSETTLED_MAX);

/// How the dispatcher treats deliveries.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// The time from a push to the deadline.
    pub ack_deadline: Duration,
    /// When a failed delivery is tried again, and when it is dead.
    pub retry: RetryPolicy,
    /// Pushing ends so long before this broker's lease does: clocks drift, and a push takes time.
    pub lease_margin: Duration,
    /// The most outcomes that wait to be written: [`UNSETTLED_MAX`], except in a test.
    pub unsettled_max: usize,
}

struct SessionState {
    inbox: Arc<str>,
    instance: Option<String>,
    window: u32,
    /// All deliveries in flight; `replies` counts those among them that went beside the window.
    in_flight: u32,
    in_flight_bytes: usize,
    replies: u32,
    replies_bytes: usize,
    /// The longest that it may hold a delivery by extending its deadline.
    hold: Duration,
    /// The agent has sent `begun` at least once.
    says_begun: bool,
    /// Nothing is pushed until nothing is in flight here: then the session gets a delivery that is apart.
    reserved: bool,
    /// The delivery in flight is one that is apart.
    has_apart: bool,
    last_tag: Tag,
    /// The session is a link of another broker.
    link: bool,
    rank: Option<Rank>,
    /// The session was asked to leave: nothing more is pushed.
    draining: bool,
    /// The session was told to end.
    closing: bool,
}

/// A `ref` that is answered once all its outcomes are committed.
struct PendingAnswer {
    session: SessionId,
    reference: String,
    left: usize,
}

/// The sessions and deliveries of an inbox at this broker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Sessions on the inbox, without links.
    pub sessions: u64,
    /// Deliveries in flight to them, and to links.
    pub in_flight: u64,
}

/// Owns all live state and decides what is pushed; see the module's page.
pub struct Dispatcher {
    rules: Rules,
    sessions: HashMap<SessionId, SessionState>,
    inboxes: HashMap<Arc<str>, Inbox>,
    in_flight: InFlight,
    answers: HashMap<u64, PendingAnswer>,
    last_answer: u64,
    shares: Shares,
    lanes_bytes: usize,
    snapshot: Option<Snapshot>,
    lease_until: Option<Instant>,
    /// When the last tail round that ended had begun.
    tailed_at: Option<Instant>,
    stopping: bool,
    /// When the last of the messages that cannot be seen is looked for again.
    last_look: Option<Instant>,
    /// Inboxes for which the open tail round has brought something.
    in_round: Vec<Arc<str>>,
    /// Inboxes that became `Loading` (some may be in another state since), so that a round need not look at all
    /// inboxes.
    loading: Vec<Arc<str>>,
    /// Inboxes with an ordering key that waits until a tail round shows its failed message again.
    returning: Vec<Arc<str>>,
    /// When the delay of an ordering key in this inbox ends.
    delayed: BTreeSet<(Instant, Arc<str>)>,
    /// Inboxes that may have something to push or to read; the next `advance` looks at them.
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
            shares: Shares::new(rules.unsettled_max),
            lanes_bytes: 0,
            snapshot: None,
            lease_until: None,
            tailed_at: None,
            stopping: false,
            last_look: None,
            in_round: Vec::new(),
            loading: Vec::new(),
            returning: Vec::new(),
            delayed: BTreeSet::new(),
            touched: Vec::new(),
            effects: Vec::new(),
            rng: SmallRng::seed_from_u64(seed),
        }
    }

    /// Takes note of an event. Call [`advance`](Self::advance) after one or several.
    pub fn handle(&mut self, now: Instant, event: Event) {
        match event {
            Event::Join { session, inbox, instance, window, hold, link, rank } => {
                let new = SessionState {
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
                    has_apart: false,
                    last_tag: Tag::NONE,
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
            Event::GivenBack(inbox) => self.released(inbox),
            Event::Settled(settled) => self.settled(now, settled),
            Event::LeaseUntil(until) => self.lease_until(now, until),
            Event::LeaseLapsed => self.lease_lapsed(),
            Event::LeasesLost(inboxes) => self.leases_lost(inboxes),
            Event::Stop => self.stopping = true,
        }
    }

    /// Does what time and the events since the last call make possible, and returns what is to be done.
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

    /// When [`advance`](Self::advance) is due even if no event comes.
    pub fn next_wake(&self) -> Option<Instant> {
        let key = self.delayed.first().map(|(at, _)| *at);
        self.in_flight.next_wake().into_iter().chain(key).min()
    }

    /// How many deliveries are in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// How many sessions there are, links included.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The sessions and the deliveries in flight of each inbox. A link counts for its deliveries only, since
    /// the session behind the link is at another broker.
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
        self.shares.count()
    }

    /// The inboxes that get nothing for now, since more of their outcomes wait to be written than places are free. So
    /// an inbox whose outcomes can be written nowhere never takes the last place.
    pub fn held_back(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.shares.held_back()
    }

    /// The memory of all lanes, in bytes.
    pub fn lanes_bytes(&self) -> usize {
        self.lanes_bytes
    }

    /// Whether every inbox is given back, so that no lease names this broker.
    pub fn is_empty(&self) -> bool {
        self.inboxes.is_empty()
    }

    fn room(&self) -> Room {
        if self.lanes_bytes > LANES_BYTES_MAX { ROOM_SCARCE } else { ROOM }
    }

    fn may_push(&self, now: Instant) -> bool {
        !self.stopping && self.lease_until.is_some_and(|until| now + self.rules.lease_margin < until)
    }

    /// Whether something may be pushed to this inbox. If too many of its outcomes wait to be written, it is held back
    /// until some are.
    fn may_push_to(&mut self, now: Instant, inbox: &Arc<str>) -> bool {
        let of_inbox = self.inboxes.get(inbox).map_or(0, Inbox::outcomes);
        self.may_push(now) && self.shares.has_room(inbox, of_inbox)
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

    /// How far the ownership of an inbox is; `None`: it is not known here.
    #[cfg(test)]
    pub(in crate::inbox) fn ownership(&self, inbox: &str) -> Option<super::owned::Ownership> {
        self.inboxes.get(inbox).map(|state| state.ownership)
    }

    /// How many `ref`s wait to be answered.
    #[cfg(test)]
    pub(in crate::inbox) fn answers(&self) -> usize {
        self.answers.len()
    }

    /// The state of each inbox as text, without bodies, for the simulation.
    #[cfg(test)]
    pub(in crate::inbox) fn sketch(&self) -> String {
        self.inboxes.iter().map(|(name, inbox)| format!("{name}: {}\n", inbox.sketch())).collect()
    }
}
