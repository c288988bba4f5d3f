//! The router: when producers leave the routing of their messages to a broker, and when that broker's rounds are.
//!
//! Writing deliveries costs a producer's transaction a third of its throughput once many write at the same time. So
//! while the mesh is busy one broker, the router, makes the deliveries right after the commit, many at once, and
//! producers only mark their rows (`triggers/leave.sql`). [`Router`] decides; it is pure and takes `now`.
//!
//! ```text
//!          busy, or the row names the dead                 quiet (mark: the clock is written)
//!    Away ───────────── take ──────────────▶ Leaving ◀───────────────────────────────▶ Lapsing
//!     ▲                                         busy again                               │ nothing is left, and all have ended
//!     │                                                                                  ▼
//!     └────────────────── give back ── every transaction of then has ended ◀──────── Ending
//!                                                                       (mark: 0 is written)
//! ```
//!
//! `Leaving` writes forward until when messages may be left. `Lapsing` writes the clock: a message is left only if its
//! statement shows another one that is left and not routed, so that no trigger's delivery overtakes that one. Once all
//! transactions have ended that may have left something, and the last round saw nothing, no message is left any more.
//! `Ending` has written 0, and waits once more, since the server's clock may have stepped back meanwhile. All three make
//! deliveries in rounds.
//!
//! A mark writes the sequence, and then draws a transaction's id. Each producer draws its id before it reads the sequence, so
//! all who read the old value have lower ids: they have ended once a snapshot shows no open transaction below the mark. (A
//! snapshot's xmax is no such mark: an open transaction may be above.)

mod load;

use std::time::{Duration, Instant};

pub use load::MeshLoad;

/// How long messages may be left after a round that said so. A router that dies leaves messages unrouted for as long,
/// so this is below a broker's lease.
pub const LEFT_FOR: Duration = Duration::from_secs(2);
/// How often that is written forward.
pub const LEFT_AGAIN: Duration = Duration::from_millis(500);
/// For how long triggers look for a left message after the time is over, also if the router has died; `triggers/leave.sql` has
/// the same number.
pub const PROBED_FOR: Duration = Duration::from_secs(2);
/// The shortest pause between two rounds: rows gather meanwhile, and a batch costs less than its rows one by one.
pub const ROUTE_MIN: Duration = Duration::from_millis(2);
/// The longest pause between two rounds while messages are being left.
pub const ROUTE_MAX: Duration = Duration::from_millis(5);
/// The longest pause once messages are hardly left any more.
pub const ENDING_MAX: Duration = Duration::from_millis(100);
/// After a round that failed, triggers route for so long: what made it fail hurts one producer then, and not all.
pub const DISTRUST: Duration = Duration::from_secs(10);
/// A round that takes longer than this has more to do than the router can: producers leave faster than it routes, so
/// triggers route for [`DISTRUST`], and the rest is done in a round or two.
pub const ROUND_SLOW: Duration = Duration::from_millis(300);
/// After so many failed rounds in a row what was left is noted, message by message, in place of being routed together.
pub const FAILURES_NOTED: u32 = 2;
/// A round after one that saw fewer messages does not fail for its size: noted at once.
pub const SEEN_MANY: u64 = 2_000;
/// How soon a broker asks again to be the router after another one was found.
pub const TAKE_AGAIN: Duration = Duration::from_secs(1);
const _: () = assert!(LEFT_AGAIN.as_millis() * 2 < LEFT_FOR.as_millis());
const _: () = assert!(ROUTE_MIN.as_millis() <= ROUTE_MAX.as_millis());
const _: () = assert!(ROUTE_MAX.as_millis() < ENDING_MAX.as_millis());
const _: () = assert!(LEFT_AGAIN.as_millis() * 2 < PROBED_FOR.as_millis());
const _: () = assert!(LEFT_FOR.as_millis() < DISTRUST.as_millis());
const _: () = assert!(ROUND_SLOW.as_millis() < LEFT_AGAIN.as_millis());

/// When producers leave messages to the router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// Never: triggers route.
    #[default]
    Never,
    /// While the mesh is busy.
    Auto,
    /// Always.
    Always,
}

/// An order to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouterStep {
    /// Nothing before [`Router::due`].
    Wait,
    /// Asks to be the router; [`Router::taken`] or [`Router::refused`] follows.
    Take,
    /// Makes the deliveries of what was left; `leave` is for how long messages may be left from then on, and none leaves
    /// that as it is. [`Router::routed`], [`Router::lost`] or [`Router::failed`] follows.
    Route {
        /// For how long messages may be left; zero: only behind others.
        leave: Option<Duration>,
    },
    /// Notes what was left for the sweep, in place of [`RouterStep::Route`], which failed again and again; the same follows.
    Note,
    /// Writes that messages are left only behind others, or not any more, and then draws a transaction's id;
    /// [`Router::marked`] follows.
    Mark {
        /// Not any more.
        stop: bool,
    },
    /// Gives the place back; [`Router::lost`] follows.
    GiveBack,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Another broker is the router, or nobody.
    Away,
    /// Messages are left; when that was last written forward.
    Leaving { written: Option<Instant> },
    /// The clock is to be written.
    Marking,
    /// Every transaction below this id must end; when the clock was written.
    Lapsing { below: u64, written: Instant },
    /// 0 is to be written.
    Stopping,
    /// Every transaction below this id must end.
    Ending { below: u64 },
    /// All have.
    Ended,
}

/// Decides; the module's page explains the states.
#[derive(Debug)]
pub struct Router {
    routing: Routing,
    state: State,
    busy: bool,
    /// The row names a broker that does not live, or this one, which has lost its connection.
    orphaned: bool,
    /// Until when this broker does not have messages left to it.
    distrust: Option<Instant>,
    /// How many rounds in a row have failed.
    failures: u32,
    /// How many messages the last round saw.
    seen: u64,
    pause: Duration,
    due: Instant,
    /// When this broker may ask again.
    ask: Instant,
}

impl Router {
    /// A broker that is not the router.
    pub fn new(routing: Routing, now: Instant) -> Self {
        let (state, pause) = (State::Away, ROUTE_MIN);
        Self {
            routing,
            state,
            busy: false,
            orphaned: false,
            distrust: None,
            failures: 0,
            seen: 0,
            pause,
            due: now,
            ask: now,
        }
    }

    /// When the next round is due; nothing is due while the broker is not the router and has no reason to be.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Away => self.wants().then_some(self.ask),
            _ => Some(self.due),
        }
    }

    /// Whether this broker is the router.
    pub fn is_router(&self) -> bool {
        self.state != State::Away
    }

    /// Whether messages are being left to this broker.
    pub fn is_leaving(&self) -> bool {
        matches!(self.state, State::Leaving { written: Some(_) })
    }

    /// Takes note of whether the mesh is busy ([`MeshLoad`]).
    pub fn load(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Takes note of whether the row names a broker that does not live.
    pub fn orphaned(&mut self, orphaned: bool) {
        if self.state == State::Away {
            self.orphaned = orphaned;
        }
    }

    fn leaves(&self) -> bool {
        self.distrust.is_none()
            && match self.routing {
                Routing::Auto => self.busy,
                Routing::Always => true,
                Routing::Never => false,
            }
    }

    fn wants(&self) -> bool {
        self.orphaned || self.leaves()
    }

    /// Says what to do now.
    pub fn step(&mut self, now: Instant) -> RouterStep {
        if self.distrust.is_some_and(|until| until <= now) {
            self.distrust = None;
        }
        if self.due().is_none_or(|due| due > now) {
            return RouterStep::Wait;
        }
        match self.state {
            State::Away => {
                self.ask = now + TAKE_AGAIN;
                RouterStep::Take
            }
            State::Leaving { written } if self.leaves() => {
                let again = written.is_none_or(|at| now.saturating_duration_since(at) >= LEFT_AGAIN);
                RouterStep::Route { leave: again.then_some(LEFT_FOR) }
            }
            State::Leaving { .. } | State::Marking => RouterStep::Mark { stop: false },
            // Busy again.
            _ if self.leaves() => {
                self.state = State::Leaving { written: None };
                RouterStep::Route { leave: Some(LEFT_FOR) }
            }
            State::Lapsing { written, .. } => {
                let again = now.saturating_duration_since(written) >= LEFT_AGAIN;
                RouterStep::Route { leave: again.then_some(Duration::ZERO) }
            }
            State::Stopping => RouterStep::Mark { stop: true },
            State::Ending { .. } if self.failures >= FAILURES_NOTED => RouterStep::Note,
            State::Ending { .. } => RouterStep::Route { leave: None },
            State::Ended => RouterStep::GiveBack,
        }
    }

    /// This broker is the router now.
    pub fn taken(&mut self, now: Instant) {
        self.orphaned = false;
        self.pause = ROUTE_MIN;
        self.due = now;
        self.state = match (self.distrust, self.leaves()) {
            (Some(_), _) => State::Stopping,
            (None, true) => State::Leaving { written: None },
            (None, false) => State::Marking,
        };
    }

    /// Another broker that lives is the router.
    pub fn refused(&mut self, now: Instant) {
        self.orphaned = false;
        self.ask = now + TAKE_AGAIN;
    }

    /// A round that began at `began` ended: `seen` messages had been left, `oldest` is the lowest id of a transaction that its
    /// snapshot shows open (its xmin), and `left` what the round wrote.
    pub fn routed(
        &mut self,
        (began, now): (Instant, Instant),
        seen: u64,
        oldest: u64,
        left: Option<Duration>,
    ) {
        self.seen = seen;
        let is_slow = now.saturating_duration_since(began) >= ROUND_SLOW;
        let stops = match self.state {
            State::Leaving { .. } => true,
            // Messages are left only behind others now, which ends unless there are too many.
            State::Marking | State::Lapsing { .. } => seen >= SEEN_MANY,
            _ => false,
        };
        if is_slow && stops {
            self.distrust = Some(now + DISTRUST);
            self.state = State::Stopping;
            self.due = now;
            return;
        }
        if self.failures < FAILURES_NOTED {
            self.failures = 0;
        }
        self.pause = if seen > 0 { ROUTE_MIN } else { self.pause * 2 };
        self.pause = self.pause.min(match self.state {
            State::Leaving { .. } => ROUTE_MAX,
            _ => ENDING_MAX,
        });
        self.due = now + self.pause;
        match &mut self.state {
            State::Leaving { written } if left.is_some() => *written = Some(now),
            // Others may have left theirs behind these.
            State::Lapsing { .. } if seen > 0 => self.state = State::Marking,
            State::Lapsing { below, .. } if oldest >= *below => {
                self.state = State::Stopping;
                self.due = now;
            }
            State::Lapsing { written, .. } if left.is_some() => *written = now,
            State::Ending { below } if oldest >= *below => {
                self.failures = 0;
                self.state = State::Ended;
                self.due = now;
            }
            _ => {}
        }
    }

    /// The sequence was written, and then `drawn`, a transaction's id, was drawn.
    pub fn marked(&mut self, now: Instant, drawn: u64) {
        self.state = match self.state {
            State::Stopping => State::Ending { below: drawn },
            _ => State::Lapsing { below: drawn, written: now },
        };
        self.due = now;
    }

    /// This broker is not the router any more: it gave its place back, or another one has it.
    pub fn lost(&mut self, now: Instant) {
        self.state = State::Away;
        self.ask = now + TAKE_AGAIN;
    }

    /// A round failed, and the connection may be lost. Triggers route for a while; the broker takes its place anew, and
    /// routes what was left.
    pub fn failed(&mut self, now: Instant) {
        self.orphaned |= self.is_router();
        self.failures += if self.seen < SEEN_MANY { FAILURES_NOTED } else { 1 };
        self.state = State::Away;
        self.distrust = Some(now + DISTRUST);
        self.ask = now;
    }
}

#[cfg(test)]
mod tests;
