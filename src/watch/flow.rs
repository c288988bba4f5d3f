//! The flow through this broker, for those who watch: pushes and outcomes as they happen, the last moments of
//! messages, and the delivery times of the last hour.
//!
//! While nobody watches, a push or an outcome costs a look at a flag, and a line in a bounded journal as long as its
//! budget lasts. The locks are held for short sections, never across an await.

mod gathering;
mod journal;
mod minutes;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use uuid::Uuid;

use gathering::Gathering;
pub use gathering::{Frame, Head, More, Passed};
use journal::Journal;
pub use journal::Moment;
pub use minutes::MINUTES;
use minutes::Minutes;
use postbell_engine::inbox::event::{Outcome, Push, Settle};

/// The most who watch at a time; more are told to come again.
pub const WATCHERS_MAX: usize = 32;

/// A step of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "docs/http-api.md describes each once")]
pub enum Step {
    Pushed,
    Acked,
    Released,
    Failed,
    Dead,
    Expired,
}

impl Step {
    /// The word for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pushed => "pushed",
            Self::Acked => "acked",
            Self::Released => "released",
            Self::Failed => "failed",
            Self::Dead => "dead",
            Self::Expired => "expired",
        }
    }

    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Ack { .. } => Self::Acked,
            Outcome::Release { .. }
            | Outcome::Spare { .. }
            | Outcome::Relane { .. }
            | Outcome::Unseen { .. } => Self::Released,
            Outcome::Fail { .. } => Self::Failed,
            Outcome::Dead { .. } => Self::Dead,
            Outcome::Expired => Self::Expired,
        }
    }
}

/// The flow; clones share it.
#[derive(Clone, Debug)]
pub struct Flow(Arc<FlowState>);

#[derive(Debug)]
struct FlowState {
    watchers: AtomicUsize,
    came: Notify,
    gathering: Mutex<Gathering>,
    journal: Mutex<Journal>,
    minutes: Mutex<Minutes>,
}

/// A place to watch, given back when this is dropped.
#[derive(Debug)]
pub struct Watch(Flow);

impl Flow {
    /// An empty flow.
    pub fn new(now: Instant) -> Self {
        Self(Arc::new(FlowState {
            watchers: AtomicUsize::new(0),
            came: Notify::new(),
            gathering: Mutex::default(),
            journal: Mutex::new(Journal::new(now)),
            minutes: Mutex::new(Minutes::new(now)),
        }))
    }

    /// Notes that these pushes were written to a session on this inbox. `agent` is the session's agent, if the inbox
    /// is a group's.
    pub fn pushed(&self, now: Instant, inbox: &Arc<str>, agent: Option<&str>, pushes: &[Push]) {
        if pushes.is_empty() {
            return;
        }
        lock(&self.0.journal).pushed(now, inbox, pushes);
        if self.is_watched() {
            lock(&self.0.gathering).pushed(now, inbox, agent, pushes);
        }
    }

    /// Notes that these outcomes are committed.
    pub fn settled(&self, now: Instant, settles: &[Settle]) {
        lock(&self.0.journal).settled(now, settles);
        if self.is_watched() {
            lock(&self.0.gathering).settled(now, settles);
        }
    }

    /// The steps since the last call; `None` if there were none.
    pub fn take_frame(&self, now: Instant) -> Option<Frame> {
        lock(&self.0.gathering).take(now)
    }

    /// The journal's moments of these messages, oldest first.
    pub fn lives(&self, messages: &[Uuid]) -> Vec<Moment> {
        lock(&self.0.journal).of(messages)
    }

    /// Takes the counts of the delivery time's buckets, which only grow. Returns the counts of each minute of the
    /// last hour, oldest first; the last minute is not over.
    pub fn minutes(&self, now: Instant, counts: &[u64]) -> Vec<Vec<u64>> {
        lock(&self.0.minutes).read(now, counts)
    }

    /// Begins to watch; `None` if [`WATCHERS_MAX`] already do.
    pub fn watch(&self) -> Option<Watch> {
        let one_more = |n: usize| (n < WATCHERS_MAX).then_some(n + 1);
        self.0.watchers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        self.0.came.notify_waiters();
        Some(Watch(self.clone()))
    }

    /// Whether somebody watches.
    pub fn is_watched(&self) -> bool {
        self.0.watchers.load(Ordering::Relaxed) > 0
    }

    /// Waits until somebody watches.
    pub async fn watched(&self) {
        loop {
            // Made before the look, so that nobody who comes in between is missed.
            let came = self.0.came.notified();
            if self.is_watched() {
                return;
            }
            came.await;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.0.0.watchers.fetch_sub(1, Ordering::Relaxed) == 1 {
            // The steps that nobody took are of no use to the next one who watches.
            *lock(&self.0.0.gathering) = Gathering::default();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each section leaves whole values, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Milliseconds to a tenth, since people cannot tell smaller differences apart.
fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbell_engine::inbox::{Attempt, DeliveryId};

    #[test]
    fn watching_is_bounded_and_ends() {
        let flow = Flow::new(Instant::now());
        let all: Vec<_> = (0..WATCHERS_MAX).map(|_| flow.watch().expect("room")).collect();
        assert!(flow.watch().is_none() && flow.is_watched());
        drop(all);
        assert!(!flow.is_watched() && flow.watch().is_some());
    }

    #[test]
    fn nothing_is_gathered_while_nobody_watches() {
        let (flow, now) = (Flow::new(Instant::now()), Instant::now());
        let attempt = Attempt { delivery_id: DeliveryId(1), failed: 0 };
        let expired = Settle { inbox: "a".into(), attempt, outcome: Outcome::Expired, answer: None };
        flow.settled(now, std::slice::from_ref(&expired));
        assert!(flow.take_frame(now).is_none());
        let watch = flow.watch().expect("room");
        flow.settled(now, std::slice::from_ref(&expired));
        drop(watch);
        assert!(flow.take_frame(now).is_none(), "what was gathered for those who left is dropped");
    }
}
