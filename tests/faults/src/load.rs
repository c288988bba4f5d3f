//! The steady load: producers by plain SQL, as any program of the mesh inserts, and agents that send by the client.
//!
//! Each producer has its own pace and its own dice. A message that cannot be sent when it is due is not made up for:
//! a load that catches up after an outage would hide how fast delivery resumes.

mod sending;
mod sql;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::agents::{AGENTS, INBOXES};
use crate::ledger::{Fate, Ledger, Seen, Timing};
use crate::task::{Task, Wish};

/// Connections that insert.
const SQL_PRODUCERS: u8 = 4;
/// The share of the load that comes by SQL; the rest comes by `send`.
const SQL_SHARE: f64 = 0.75;
/// One message by SQL in so many is a broadcast to every agent.
const BROADCAST_EVERY: u32 = 200;
/// A message that expires does so after this; a message that is due later is due within this.
const SOON_MS: i64 = 1_500;

/// The ledger, which every task of the campaign writes.
#[derive(Clone, Default)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Locks the ledger: for a few lines at most, and never across an await.
    pub fn lock(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an event that an agent saw.
    pub fn see(&self, n: u64, seen: Seen) {
        self.lock().see(n, seen);
    }
}

/// The load: its rate, its dice, and where it goes.
#[derive(Clone, Debug)]
pub struct Load {
    /// Messages a second.
    pub rate: f64,
    /// The seed of the producers' dice.
    pub seed: u64,
    /// The URL of the proxy before the database.
    pub database_url: String,
    /// The URL of the proxy before the brokers.
    pub brokers_url: String,
}

/// The observations of the load itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noticed {
    /// The longest time that a `send` waited for its answer, whatever the answer was.
    pub longest_send: Duration,
    /// `send`s that were answered by an error, each of which may be tried again.
    pub sends_refused: u64,
    /// `send`s that were not answered at all.
    pub sends_unanswered: u64,
}

impl Load {
    /// Sends until `stop` is set, or its sender is gone.
    ///
    /// # Errors
    /// A task of the load panicked.
    pub async fn run(self, ledger: SharedLedger, stop: watch::Receiver<bool>) -> anyhow::Result<Noticed> {
        let mut tasks = JoinSet::new();
        let sql_rate = self.rate * SQL_SHARE / f64::from(SQL_PRODUCERS);
        for producer in 0..SQL_PRODUCERS {
            let source = Source::new(self.seed, producer, sql_rate, ledger.clone(), stop.clone());
            let url = self.database_url.clone();
            tasks.spawn(async move {
                sql::produce(url, source).await;
                Noticed::default()
            });
        }
        let senders = AGENTS..INBOXES;
        let send_rate = self.rate * (1.0 - SQL_SHARE) / senders.len() as f64;
        for inbox in senders {
            let source =
                Source::new(self.seed, SQL_PRODUCERS + inbox, send_rate, ledger.clone(), stop.clone());
            tasks.spawn(sending::send(self.brokers_url.clone(), inbox, source));
        }
        let mut all = Noticed::default();
        while let Some(noticed) = tasks.join_next().await {
            let noticed = noticed?;
            all.longest_send = all.longest_send.max(noticed.longest_send);
            all.sends_refused += noticed.sends_refused;
            all.sends_unanswered += noticed.sends_unanswered;
        }
        Ok(all)
    }
}

/// The source of one producer's messages.
struct Source {
    dice: StdRng,
    ticks: Interval,
    ledger: SharedLedger,
    stop: watch::Receiver<bool>,
}

/// A message that is about to be sent, with its line in the ledger.
#[derive(Clone, Debug)]
struct Draft {
    task: Task,
    /// The recipient's inbox; `None` for a broadcast.
    to: Option<u8>,
    priority: i32,
    delay_ms: Option<i64>,
    ttl_ms: Option<i64>,
}

impl Source {
    fn new(seed: u64, producer: u8, rate: f64, ledger: SharedLedger, stop: watch::Receiver<bool>) -> Self {
        let mut ticks = interval(Duration::from_secs_f64(1.0 / rate));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let dice = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(producer.into()));
        Self { dice, ticks, ledger, stop }
    }

    /// Waits until the next message is due; `false` once the load is over.
    async fn due(&mut self) -> bool {
        let goes_on = tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => false,
            _ = self.ticks.tick() => true,
        };
        goes_on
    }

    /// A message to one agent, or rarely a broadcast. `me` is the sender's inbox if the sender is an agent.
    fn draft(&mut self, me: Option<u8>) -> Draft {
        // A sender is no recipient of its own broadcast, so only producers that are no agents send broadcasts.
        if me.is_none() && self.dice.random_range(0..BROADCAST_EVERY) == 0 {
            let n = self.ledger.lock().open(0..INBOXES, Wish::Ack, Timing::Now);
            let task = Task { n, wish: Wish::Ack, ms: 0, each: true };
            return Draft { task, to: None, priority: 5, delay_ms: None, ttl_ms: None };
        }
        let to = self.dice.random_range(0..INBOXES);
        let (wish, ms) = Wish::any(&mut self.dice);
        let priority = if self.dice.random_range(0..10) == 0 { self.dice.random_range(1..=10) } else { 5 };
        let (timing, delay_ms, ttl_ms) = match self.dice.random_range(0..100) {
            0 => (Timing::Later, Some(self.dice.random_range(1..SOON_MS)), None),
            1 => (Timing::Expires, None, Some(self.dice.random_range(1..SOON_MS))),
            _ => (Timing::Now, None, None),
        };
        let n = self.ledger.lock().open(to..to + 1, wish, timing);
        Draft { task: Task { n, wish, ms, each: false }, to: Some(to), priority, delay_ms, ttl_ms }
    }

    fn close(&self, draft: &Draft, fate: Fate) {
        self.ledger.lock().close(draft.task.n, fate);
    }
}
