//! The rope: the connection that listens for the bell, its own and never pooled.
//!
//! Rings are counted and not queued, so nothing can fill up however often it rings. The tail asks whether the count
//! has changed.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::Notify;
use uuid::Uuid;

use super::connection::{Connection, Target};
use super::error::StoreError;

/// The channel on which the trigger rings.
pub const BELL_CHANNEL: &str = "postbell";

/// The channel on which the trigger of `agent_registry` tells that an agent's access changed.
pub const ACCESS_CHANNEL: &str = "postbell_access";

/// Above this share of the server's queue of notifications the bell is off. A session that listens and sits idle in a
/// transaction keeps the queue from being emptied, and once the queue is full no commit with a NOTIFY succeeds.
pub const QUEUE_CROWDED: f64 = 0.5;
/// Below this share the bell is on again.
pub const QUEUE_RELIEVED: f64 = 0.25;

const _: () = assert!(QUEUE_RELIEVED < QUEUE_CROWDED);

/// The state of the listening connection, shared with the tasks that need it.
#[derive(Debug, Default)]
pub struct Rope {
    rings: AtomicU64,
    canary: AtomicU64,
    up: AtomicBool,
    crowded: AtomicBool,
    changed: Notify,
    access: AtomicU64,
    access_changed: Notify,
    flown: Mutex<Flown>,
}

/// The canary's flight.
#[derive(Debug, Default)]
struct Flown {
    number: u64,
    at: Option<Instant>,
    round_trip: Option<Duration>,
    /// The number of canaries sent since the last one that came back.
    unanswered: u32,
}

impl Rope {
    /// The number of rings heard.
    pub fn rings(&self) -> u64 {
        self.rings.load(Ordering::Acquire)
    }

    /// The number of the last canary that came back. Notifications arrive in the order of commits, and this number is
    /// stored only after the rings before it were counted. So callers read the canary first, then the rings.
    pub fn canary(&self) -> u64 {
        self.canary.load(Ordering::Acquire)
    }

    /// Whether LISTEN is committed on a live connection, and the queue has room for rings.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire) && !self.is_crowded()
    }

    /// Whether the server's queue of notifications fills up, so that nobody should ring.
    pub fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Acquire)
    }

    /// Notes how full that queue is. Returns whether [`is_crowded`](Self::is_crowded) changed.
    pub fn note_queue(&self, usage: f64) -> bool {
        let was = self.is_crowded();
        let is = usage > if was { QUEUE_RELIEVED } else { QUEUE_CROWDED };
        self.crowded.store(is, Ordering::Release);
        if was != is {
            self.changed.notify_one();
        }
        was != is
    }

    /// Sets whether the bell can be heard, and wakes the waiting tasks.
    pub fn set_up(&self, up: bool) {
        self.flown().unanswered = 0;
        self.up.store(up, Ordering::Release);
        self.changed.notify_one();
        // Notifications that were sent while nobody listened are not repeated.
        self.hear_access();
    }

    /// Returns the number of the next canary, which is about to be sent.
    pub fn send_canary(&self) -> u64 {
        let mut flown = self.flown();
        flown.number += 1;
        flown.at = Some(Instant::now());
        flown.number
    }

    /// The number of the last canary that was sent or is being sent.
    pub fn canary_sent(&self) -> u64 {
        self.flown().number
    }

    /// Notes that the canary's statement committed, so that it should come back.
    pub fn expect_canary(&self) {
        let mut flown = self.flown();
        if self.canary() < flown.number {
            flown.unanswered += 1;
        }
    }

    /// How many canaries in a row have not come back.
    pub fn unanswered(&self) -> u32 {
        self.flown().unanswered
    }

    /// The round trip of the last canary; returned once.
    pub fn take_round_trip(&self) -> Option<Duration> {
        self.flown().round_trip.take()
    }

    fn flown(&self) -> std::sync::MutexGuard<'_, Flown> {
        self.flown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a notification was heard, or the connection changed, since the last call returned.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How often a change of access was heard.
    pub fn access(&self) -> u64 {
        self.access.load(Ordering::Acquire)
    }

    /// Waits until some agent's access may have changed since the last call returned.
    pub async fn access_changed(&self) {
        self.access_changed.notified().await;
    }

    /// Notes that some agent's access may have changed, and wakes the task that looks.
    pub fn hear_access(&self) {
        self.access.fetch_add(1, Ordering::AcqRel);
        self.access_changed.notify_one();
    }

    fn hear(&self, channel: &str, payload: &str) {
        if channel == ACCESS_CHANNEL {
            return self.hear_access();
        }
        if channel == BELL_CHANNEL {
            self.rings.fetch_add(1, Ordering::AcqRel);
        } else if let Ok(number) = payload.parse() {
            let mut flown = self.flown();
            if flown.number == number {
                flown.round_trip = flown.at.take().map(|at| at.elapsed());
            }
            flown.unanswered = 0;
            self.canary.store(number, Ordering::Release);
        }
        self.changed.notify_one();
    }
}

/// The channel of one broker's canary, so that brokers do not wake each other.
pub fn canary_channel(broker: Uuid) -> String {
    format!("postbell_canary_{}", broker.simple())
}

/// Opens a connection that listens for the bell, changes of access and this broker's canary. LISTEN is committed when
/// this returns: every later commit is heard.
///
/// # Errors
/// See [`StoreError`].
pub async fn listen(target: &Target, broker: Uuid, rope: Arc<Rope>) -> Result<Connection, StoreError> {
    let connection = Connection::open_listening(target, move |n| rope.hear(n.channel(), n.payload())).await?;
    connection
        .batch(&format!("listen {BELL_CHANNEL}; listen {ACCESS_CHANNEL}; listen {}", canary_channel(broker)))
        .await?;
    Ok(connection)
}

/// Makes a LISTEN/NOTIFY round trip between two connections, and returns how long it took. Direct connections and
/// session poolers pass; on a transaction pooler the notification never arrives.
///
/// # Errors
/// See [`StoreError`]. If the notification does not arrive within `wait`, the sentence names the transaction pooler.
pub async fn round_trip(target: &Target, wait: Duration) -> Result<Duration, StoreError> {
    let rope = Arc::new(Rope::default());
    let broker = Uuid::new_v4();
    let _listening = listen(target, broker, rope.clone()).await?;
    let ringing = Connection::open(target).await?;
    let sent = Instant::now();
    ringing.batch(&format!("notify {}, '1'", canary_channel(broker))).await?;
    let heard = async {
        while rope.canary() == 0 {
            rope.changed().await;
        }
    };
    match tokio::time::timeout(wait, heard).await {
        Ok(()) => Ok(sent.elapsed()),
        Err(_) => Err(StoreError::refused(format!(
            "a notification did not arrive in {} s, so this is a transaction pooler, on which LISTEN does not \
             work: use the direct connection or the session pooler (on Supabase both on port 5432)",
            wait.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bell_is_off_from_half_a_queue_until_it_is_a_quarter() {
        let rope = Rope::default();
        rope.set_up(true);
        assert!(!rope.note_queue(0.5) && rope.is_up());
        assert!(rope.note_queue(0.51) && !rope.is_up());
        assert!(!rope.note_queue(0.3) && !rope.is_up());
        assert!(rope.note_queue(0.25) && rope.is_up());
    }
}
