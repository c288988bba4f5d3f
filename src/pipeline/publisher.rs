//! The publisher: gathers what agents send and inserts it in batches. Each send is answered after COMMIT.
//!
//! A send that the table refuses is found by halving its batch, and is refused alone. A send that has to wait for
//! another transaction or a slow trigger is tried apart (`publisher/apart.rs`), together with its agent's further sends
//! for a while.

mod apart;
mod item;
mod parts;
mod slow;
mod suspects;

use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc};

use crate::agents::access::Outstanding;
use crate::pipeline::dispatch::Outbox;
use crate::store::Target;
use crate::store::cut_off::Losses;
use crate::store::publish::{InsertPatience, Writer};
use crate::watch::metrics::Metrics;
use crate::watch::spans::Spans;
pub use apart::HELD_WAIT;
use apart::{APART_MAX, Given, SendsApart};
use item::{Item, Teller, Verdict};
use postbell_client::protocol::frame::Send;
use slow::{SlowSearch, Timed};
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
const BATCH_WAIT: InsertPatience =
    InsertPatience { lock: Duration::from_millis(20), statement: Duration::from_millis(500) };
/// How long half of a batch may wait once a send of the batch is known to wait.
const HALF_WAIT: InsertPatience =
    InsertPatience { lock: Duration::from_millis(10), statement: Duration::from_millis(200) };

const _: () = assert!(BATCH_WAIT.statement.as_millis() < HELD_WAIT.as_millis());
const _: () = assert!(HALF_WAIT.lock.as_millis() < BATCH_WAIT.lock.as_millis());

/// A message that an agent sends.
#[derive(Debug)]
pub struct Publish {
    /// The agent that sends, which the message is from.
    pub from: Arc<str>,
    /// The message as the agent sent it.
    pub send: Send,
    /// Where the answer goes.
    pub outbox: Outbox,
    /// The send's share of the agent's quota and of the queue, until it is answered.
    pub held: SendShare,
}

/// A send's share of its agent's quota and of the queue; dropping it gives the share back.
pub type SendShare = (Outstanding, Option<OwnedSemaphorePermit>);

/// Publishes until every session is gone.
pub async fn run(
    target: Target,
    publishes: mpsc::Receiver<Publish>,
    wake: Arc<Notify>,
    (metrics, spans): (Metrics, Spans),
) {
    let (suspects, teller) = (Suspects::default(), Teller { wake, metrics, spans });
    let (to_apart, given) = mpsc::channel(APART_MAX);
    let apart = SendsApart::new(Writer::new(target.clone()), suspects.clone(), teller.clone());
    let (writer, losses) = (Writer::new(target), Losses::new(Instant::now()));
    let batches = Batches {
        writer,
        losses,
        slow: SlowSearch::default(),
        suspects,
        teller,
        apart: to_apart,
        most: BATCH_MAX,
    };
    // The first ends when its channel closes; it owns the other's sender, so the other ends after it.
    tokio::join!(batches.run(publishes), apart.run(given));
}

struct Batches {
    writer: Writer,
    losses: Losses,
    slow: SlowSearch,
    suspects: Suspects,
    teller: Teller,
    apart: mpsc::Sender<Given>,
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
                    true => self.try_apart(item, None),
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

    /// Writes a batch, in parts while an agent is looked for whose sends are slow. Returns the sends for which no time was left.
    async fn write(&mut self, batch: Vec<Item>) -> Vec<Item> {
        let (mut untried, mut timed) = (Vec::new(), Vec::new());
        for part in self.slow.split(batch, Item::agent) {
            let agents: Vec<_> = part.iter().map(|item| item.agent().clone()).collect();
            let began = Instant::now();
            let (left, none_is_held) = self.write_part(part).await;
            untried.extend(left);
            // A send that is slow by itself was found already.
            if none_is_held {
                timed.push(Timed { agents, took: began.elapsed() });
            }
        }
        let now = Instant::now();
        if let Some(agent) = self.slow.learn(now, timed) {
            self.suspects.add(now, &agent);
            tracing::warn!(%agent, "this agent's sends are slow: for a while they are written apart from the others");
        }
        untried
    }

    /// Writes a part of a batch. Returns the sends for which no time was left, and whether none of the others is slow by itself.
    async fn write_part(&mut self, part: Vec<Item>) -> (Vec<Item>, bool) {
        let n = part.len();
        let (teller, suspects) = (&self.teller, &self.suspects);
        let tell = |item: Item, verdict| {
            if matches!(verdict, Verdict::Lost(_)) && suspects.add(Instant::now(), item.agent()) {
                tracing::warn!(
                    agent = %item.agent(),
                    id = %item.message.id,
                    "the connection was lost at this send: for a while what this agent sends is written apart from the others"
                );
            }
            teller.tell(item, verdict);
        };
        let way = (&mut self.writer, &mut self.losses);
        let left = parts::write(way, part, (BATCH_WAIT, HALF_WAIT), tell).await;
        self.most = match left.too_large {
            true => (n / 2).max(BATCH_MIN),
            false => (self.most * 2).min(BATCH_MAX),
        };
        let none_is_held = left.held.is_empty();
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
            self.try_apart(item, Some(held));
        }
        let untried = left.untried.into_iter().filter_map(|item| self.try_again(now, item)).collect();
        (untried, none_is_held)
    }

    fn try_again(&self, now: Instant, item: Item) -> Option<Item> {
        if self.suspects.has(now, item.agent()) {
            self.try_apart(item, None);
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

    fn try_apart(&self, item: Item, held: Option<crate::store::publish::WaitReason>) {
        self.suspects.entered(item.since, item.agent());
        let Err(full) = self.apart.try_send((item, held)) else { return };
        let (item, _) = full.into_inner();
        self.suspects.left(item.agent());
        let sentence = "other sends wait for another transaction, as many as may wait";
        self.teller.tell(item, Verdict::NotStored(sentence.to_owned()));
    }
}
