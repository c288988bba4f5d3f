//! The bell: when the tail runs.
//!
//! A commit with a NOTIFY takes a lock of the whole cluster across its flush, so producers ring only while this
//! broker sleeps. [`Bell`] decides when to sleep and when to tail; it is pure and takes `now`.
//!
//! ```text
//!       rung often, not rung for a row, LISTEN lost, lease lapsed (disarm)
//!         ┌───────────────────────────────────────────────────────┐
//!         ▼                                                       │
//!      Awake ──── quiet for QUIET_WINDOW (arm) ─────▶ Arming ──▶ Asleep
//!   tails on its clock                tails until every transaction  tails when rung, and
//!                                     in progress at arming ended    in safety rounds
//! ```
//!
//! Asleep, a safety round follows a second after the last round. Each canary that comes back shows that no ring before the
//! canary was lost, and puts the safety round off to a second after itself, but not beyond [`SAFETY_MAX`].
//!
//! This is exact. A row's transaction has its id before the trigger reads the flag, and the trigger reads the
//! value that was set last, whatever the transaction's snapshot (`postbell.bell` is a sequence). A transaction
//! that was in progress when the flag was set may have read the old value, and then rings nothing: `Arming`
//! tails until all such transactions have ended. A transaction that gets its id later sees the flag and rings.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// The shortest pause between two rounds while awake.
pub const AWAKE_MIN: Duration = Duration::from_millis(2);
/// The longest pause between two rounds while awake, so the longest that a message waits then.
pub const AWAKE_MAX: Duration = Duration::from_millis(10);
/// The longest pause while the bell cannot be heard.
pub const DEAF_MAX: Duration = Duration::from_millis(100);
/// The longest pause while a transaction that began before arming stays open.
pub const ARMING_MAX: Duration = Duration::from_millis(250);
/// The broker arms after so long with at most [`QUIET_ROWS`] rows. Being rung for so few costs less than the
/// clock does, and each row is answered at once. Silence is not required: a mesh that was busy once and goes on
/// with 50 messages a second would otherwise stay awake, and each message would wait for the clock.
pub const QUIET_WINDOW: Duration = Duration::from_millis(100);
/// The most rows of a quiet [`QUIET_WINDOW`]: half of the rings that wake the broker again.
pub const QUIET_ROWS: u64 = RINGS_OFTEN / 2;
/// So many rings in [`RINGS_WINDOW`] disarm the bell: 100 rings a second cost producers more than the broker's
/// clock costs.
pub const RINGS_OFTEN: u64 = 10;
/// The time in which rings are counted for [`RINGS_OFTEN`].
pub const RINGS_WINDOW: Duration = Duration::from_millis(100);
/// The longest pause between two rounds while no canary comes back.
pub const SAFETY: Duration = Duration::from_secs(1);
/// The longest pause between two rounds in any state: so long waits a row for which nobody rang.
pub const SAFETY_MAX: Duration = Duration::from_secs(2);
/// How much longer than the last canary the next one may be on its way, without a safety round in between.
pub const CANARY_GRACE: Duration = Duration::from_millis(250);

const _: () = assert!(AWAKE_MIN.as_millis() < AWAKE_MAX.as_millis());
const _: () = assert!(AWAKE_MAX.as_millis() < QUIET_WINDOW.as_millis());
const _: () = assert!(RINGS_WINDOW.as_millis() == QUIET_WINDOW.as_millis());
const _: () = assert!(ARMING_MAX.as_millis() < SAFETY.as_millis());
const _: () = assert!((SAFETY.as_millis() + CANARY_GRACE.as_millis()) < SAFETY_MAX.as_millis());
const _: () = assert!(AWAKE_MAX.as_millis() < ARMING_MAX.as_millis());
const _: () = assert!(DEAF_MAX.as_millis() < ARMING_MAX.as_millis());

/// The order to write the flag of this broker's row in `postbell.brokers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Producers ring from now on.
    Arm,
    /// Producers stop ringing.
    Disarm,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Awake,
    /// The transactions to wait for; `None` until the first round after the flag was set has shown them.
    Arming(Option<HashSet<u64>>),
    Asleep,
}

/// Rows that the safety round found: late, unless their ring is only slower than the clock.
#[derive(Debug)]
struct Suspect {
    rows: u64,
    rings: u64,
    /// The number of a canary sent after that round. Notifications keep the order of commits: if this canary
    /// comes back before any ring, no ring for these rows will come.
    canary: u64,
}

/// The state of the rope at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heard {
    /// Whether LISTEN is committed on a live connection.
    pub up: bool,
    /// How many rings were heard so far.
    pub rings: u64,
    /// The number of the last canary that came back.
    pub canary: u64,
    /// The number of the last canary that was sent.
    pub canary_sent: u64,
}

/// Decides when the tail runs; the module's page explains the states.
#[derive(Debug)]
pub struct Bell {
    state: State,
    pause: Duration,
    due: Instant,
    /// While awake: when the quiet window began, and the rows found since.
    found: (Instant, u64),
    up: bool,
    rings: u64,
    /// The last canary that came back.
    canary: u64,
    /// Asleep: the latest time of the safety round.
    latest: Instant,
    window: (Instant, u64),
    suspect: Option<Suspect>,
    late: u64,
    /// The round that is due next is the safety round: no ring and no local wake announced a row.
    unannounced: bool,
}

impl Bell {
    /// A bell that is awake, with its first round due at once.
    pub fn new(now: Instant) -> Self {
        Self {
            state: State::Awake,
            pause: AWAKE_MIN,
            due: now,
            found: (now, 0),
            up: false,
            rings: 0,
            canary: 0,
            latest: now,
            window: (now, 0),
            suspect: None,
            late: 0,
            unannounced: false,
        }
    }

    /// When the next round is due.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether producers are asked to ring.
    pub fn is_armed(&self) -> bool {
        self.state != State::Awake
    }

    /// Whether the broker sleeps.
    pub fn is_asleep(&self) -> bool {
        self.state == State::Asleep
    }

    /// How many rows only the safety round found although the bell was armed.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// Takes note of the rope. `Disarm` asks the caller to write the flag; the bell is awake already.
    pub fn hear(&mut self, now: Instant, heard: Heard) -> Option<Flag> {
        let rang = heard.rings - self.rings;
        let is_canary_back = heard.canary > self.canary;
        (self.rings, self.canary) = (heard.rings, heard.canary);
        let is_late = self.judge(heard);
        if self.up != heard.up {
            self.up = heard.up;
            // Deaf: tail on the clock. Hearing again: rows committed meanwhile rang for nobody, so tail at
            // once.
            return self.wake_up(now);
        }
        if is_late {
            // The flag is not in the table: another connection of this broker, given up since, was to disarm it and did so
            // after it was armed. So it is written anew.
            return self.wake_up(now);
        }
        if rang == 0 {
            if is_canary_back && self.unannounced {
                self.put_off(now);
            }
            return None;
        }
        if now.duration_since(self.window.0) > RINGS_WINDOW {
            self.window = (now, 0);
        }
        self.window.1 += rang;
        if self.is_armed() && self.window.1 >= RINGS_OFTEN {
            return self.wake_up(now);
        }
        self.announce(now);
        None
    }

    /// This broker itself made something ready: tail without a ring.
    pub fn wake(&mut self, now: Instant) {
        self.suspect = None;
        self.announce(now);
    }

    /// Starts over awake, because the flag in the table may be lost or was not heeded. `Disarm` asks the caller
    /// to write the flag.
    pub fn wake_up(&mut self, now: Instant) -> Option<Flag> {
        let was_armed = self.is_armed();
        self.state = State::Awake;
        self.pause = AWAKE_MIN;
        self.due = now;
        self.found = (now, 0);
        self.unannounced = false;
        // The safety round found it: the flag that nobody heeded says why.
        self.suspect = None;
        was_armed.then_some(Flag::Disarm)
    }

    fn announce(&mut self, now: Instant) {
        self.unannounced = false;
        match self.state {
            // The clock ticks soon anyway: many announcements must not cause many rounds.
            State::Awake => {
                self.pause = AWAKE_MIN;
                self.due = self.due.min(now + AWAKE_MIN);
            }
            State::Arming(_) | State::Asleep => self.due = now,
        }
    }

    /// No ring was lost until the canary that came back now was sent.
    fn put_off(&mut self, now: Instant) {
        self.due = (now + SAFETY + CANARY_GRACE).min(self.latest).max(self.due);
    }

    /// A round ended: `rows` are the rows found, `in_progress` the transactions that its snapshot shows open.
    /// `Arm` asks the caller to write the flag and then to call [`armed`](Self::armed).
    pub fn round(&mut self, now: Instant, rows: u64, in_progress: &[u64], heard: Heard) -> Option<Flag> {
        let unannounced = std::mem::replace(&mut self.unannounced, false);
        if rows > 0 {
            self.pause = AWAKE_MIN;
        } else {
            // The bound of every state is below ARMING_MAX; asleep, the pause is not used.
            self.pause = (self.pause * 2).min(ARMING_MAX);
        }
        match &mut self.state {
            State::Awake => {
                self.pause = self.pause.min(if self.up { AWAKE_MAX } else { DEAF_MAX });
                self.due = now + self.pause;
                self.found.1 += rows;
                if now.duration_since(self.found.0) < QUIET_WINDOW {
                    return None;
                }
                let (_, found) = std::mem::replace(&mut self.found, (now, 0));
                (self.up && found <= QUIET_ROWS).then_some(Flag::Arm)
            }
            State::Arming(waited_for) => {
                let still: HashSet<u64> = match waited_for.take() {
                    None => in_progress.iter().copied().collect(),
                    Some(before) => in_progress.iter().copied().filter(|x| before.contains(x)).collect(),
                };
                if still.is_empty() {
                    self.sleep(now);
                } else {
                    *waited_for = Some(still);
                    self.pause = self.pause.min(ARMING_MAX);
                    self.due = now + self.pause;
                }
                None
            }
            State::Asleep => {
                if unannounced && rows > 0 && self.up {
                    let (rings, canary) = (self.rings, heard.canary_sent + 1);
                    self.suspect.get_or_insert(Suspect { rows: 0, rings, canary }).rows += rows;
                }
                self.sleep(now);
                None
            }
        }
    }

    fn sleep(&mut self, now: Instant) {
        self.state = State::Asleep;
        (self.due, self.latest) = (now + SAFETY, now + SAFETY_MAX);
        self.unannounced = true;
    }

    /// The flag is committed: every transaction that gets its id from now on rings.
    pub fn armed(&mut self, now: Instant) {
        self.state = State::Arming(None);
        self.due = now;
        self.pause = AWAKE_MIN;
        self.window = (now, 0);
    }

    /// Whether rows were late that only the safety round found.
    fn judge(&mut self, heard: Heard) -> bool {
        let Some(suspect) = &self.suspect else { return false };
        let is_rung = !heard.up || heard.rings > suspect.rings;
        let is_late = !is_rung && heard.canary >= suspect.canary;
        if is_late {
            self.late += suspect.rows;
        }
        if is_rung || is_late {
            self.suspect = None;
        }
        is_late
    }
}

#[cfg(test)]
mod tests;
