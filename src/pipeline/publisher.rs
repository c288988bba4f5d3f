//! The publisher: gathers what agents send and inserts it in batches. Each send is answered after COMMIT.
//!
//! A send that the table refuses is found by halving its batch, and is refused alone. A send that has to wait for
//! another transaction or a slow trigger is put aside (`publisher/aside.rs`), together with its agent's further sends
//! for a while.

mod aside;
mod item;
mod parts;
mod suspects;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use crate::agents::access::Outstanding;
use crate::pipeline::dispatch::Outbox;
use crate::store::Target;
use crate::store::publish::{Patience, Writer};
use crate::watch::metrics::Metrics;
use crate::watch::spans::Spans;
pub use aside::{ASIDE_MAX, HELD_WAIT};
use aside::{Aside, Given};
use item::{Item, Teller, Verdict};
use postbell_client::protocol::frame::Send;
use suspects::Suspects;

/// The most sends that wait to be inserted. Beyond that, sessions that send wait before they read on.
pub const PUBLISHES_MAX: usize = 1_024;
/// The most messages in one insert.
const BATCH_MAX: usize = 500;
/// The fewest messages to which a batch that is too slow is halved.
const BATCH_MIN: usize = 8;
/// The most bytes in one batch, so that a thousand large payloads do not become one statement.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a batch may wait, since everybody's sends wait with it. Another transaction's COMMIT that flushes to a
/// disk takes less.
const BATCH_WAIT: Patience =
    Patience { lock: Duration::from_millis(20), statement: Duration::from_millis(500) };
/// How long half of a batch may wait once a send of the batch is known to wait.
const HALF_WAIT: Patience =
    Patience { lock: Duration::from_millis(10), statement: Duration::from_millis(200) };

const _: () = assert!(BATCH_WAIT.statement.as_millis() < HELD_WAIT.as_millis());
const _: () = assert!(HALF_WAIT.lock.as_millis() < BATCH_WAIT.lock.as_millis());

/// A message that an agent sends.
#[derive(Debug)]
pub struct Publish {
    /// The sending agent.
    pub from: Arc<str>,
    /// The message as the agent sent it.
    pub send: Send,
    /// Where the answer goes.
    pub outbox: Outbox,
    /// Its share of the agent's quota and of the queue, until it is answered.
    pub held: Held,
}

/// A send's share of its agent's quota and of the queue; dropping it gives the share back.
pub type Held = (Outstanding, Option<OwnedSemaphorePermit>);

/// Publishes until every session is gone.
pub async fn run(
    target: Target,
    publishes: mpsc::Receiver<Publish>,
    wake: Arc<Notify>,
    (metrics, spans): (Metrics, Spans),
) {
    let (suspects, teller) = (Suspects::default(), Teller { wake, metrics, spans });
    let (to_aside, given) = mpsc::channel(ASIDE_MAX);
    let aside = Aside::new(Writer::new(target.clone()), suspects.clone(), teller.clone());
    let batches = Batches { writer: Writer::new(target), suspects, teller, aside: to_aside, most: BATCH_MAX };
    // The first ends when its channel closes; it owns the other's sender, so the other ends after it.
    tokio::join!(batches.run(publishes), aside.run(given));
}

struct Batches {
    writer: Writer,
    suspects: Suspects,
    teller: Teller,
    aside: mpsc::Sender<Given>,
    /// The most messages in the next batch.
    most: usize,
}

impl Batches {
    async fn run(mut self, mut publishes: mpsc::Receiver<Publish>) {
        let mut came = Vec::new();
        let mut waiting: Vec<Item> = Vec::new();
        loop {
            if waiting.is_empty() && publishes.recv_many(&mut came, BATCH_MAX).await == 0 {
                return;
            }
            for publish in came.drain(..) {
                let item = Item::from(publish);
                match self.suspects.has(item.since, item.agent()) {
                    true => self.put_aside(item, None),
                    false => waiting.push(item),
                }
            }
            let mut bytes = 0;
            let fits = |item: &Item| {
                bytes += item.bytes();
                bytes <= BATCH_BYTES_MAX
            };
            let n = waiting.iter().take(self.most).map(fits).take_while(|fits| *fits).count().max(1);
            let n = n.min(waiting.len());
            let batch: Vec<Item> = waiting.drain(..n).collect();
            let untried = self.write(batch).await;
            waiting.splice(0..0, untried);
        }
    }

    /// Writes a batch. Returns the sends for which no time was left.
    async fn write(&mut self, batch: Vec<Item>) -> Vec<Item> {
        if batch.is_empty() {
            return batch;
        }
        let n = batch.len();
        let teller = &self.teller;
        let tell = |item, verdict| teller.tell(item, verdict);
        let left = parts::write(&mut self.writer, batch, (BATCH_WAIT, HALF_WAIT), tell).await;
        self.most = match left.too_large {
            true => (n / 2).max(BATCH_MIN),
            false => (self.most * 2).min(BATCH_MAX),
        };
        let now = Instant::now();
        for (item, held) in left.held {
            if self.suspects.add(now, item.agent()) {
                tracing::warn!(
                    agent = %item.agent(),
                    id = %item.message.id,
                    on = held.as_str(),
                    "a send has to wait: for a while what this agent sends is written apart from the others"
                );
            }
            self.put_aside(item, Some(held));
        }
        left.untried.into_iter().filter_map(|item| self.try_again(now, item)).collect()
    }

    fn try_again(&self, now: Instant, item: Item) -> Option<Item> {
        if self.suspects.has(now, item.agent()) {
            self.put_aside(item, None);
            return None;
        }
        if now.saturating_duration_since(item.since) < HELD_WAIT {
            return Some(item);
        }
        // The whole table is slow or locked: other sends do not get through either.
        let sentence = "the database's tables are locked by another transaction, or slow";
        self.teller.tell(item, Verdict::NotStored(sentence.to_owned()));
        None
    }

    fn put_aside(&self, item: Item, held: Option<crate::store::publish::Held>) {
        self.suspects.entered(item.since, item.agent());
        let Err(full) = self.aside.try_send((item, held)) else { return };
        let (item, _) = full.into_inner();
        self.suspects.left(item.agent());
        let sentence = "other sends wait for another transaction, as many as may wait";
        self.teller.tell(item, Verdict::NotStored(sentence.to_owned()));
    }
}
