//! Sends that had to wait, and the same agents' sends meanwhile: tried apart from all others, within a bound.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::item::{Item, Teller, Verdict};
use super::parts::{self, Left};
use super::suspects::Suspects;
use super::{BATCH_BYTES_MAX, BATCH_WAIT, HALF_WAIT};
use crate::store::publish::{Held, Patience, Writer};

/// A send that still has to wait after this time is answered `unavailable`.
pub const HELD_WAIT: Duration = Duration::from_secs(3);
/// The wait between two tries of a send that waits for a lock.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// How long one send with a slow trigger may take, tried alone.
const SLOW_WAIT: Patience = Patience { lock: HALF_WAIT.lock, statement: Duration::from_secs(2) };
/// The most sends in one round.
const BATCH_MAX: usize = 100;
/// The most sends that are aside at a time, and their bytes; below, the same for one agent. Beyond these bounds a
/// send is answered `unavailable` at once.
pub const ASIDE_MAX: usize = 1_024;
const ASIDE_BYTES_MAX: usize = 16 * 1024 * 1024;
const OF_ONE_MAX: usize = 256;
const OF_ONE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The connection is closed after this long without a send, because sends seldom wait.
const REST_AFTER: Duration = Duration::from_secs(30);

// A statement must end before its connection counts as dead.
const _: () = assert!(SLOW_WAIT.statement.as_millis() < crate::store::connection::ANSWER_WAIT.as_millis());
const _: () = assert!(OF_ONE_MAX * 4 <= ASIDE_MAX && OF_ONE_BYTES_MAX * 4 <= ASIDE_BYTES_MAX);

struct Waiting {
    item: Item,
    until: Instant,
    next: Instant,
    /// Why it had to wait when it was tried alone.
    held: Option<Held>,
}

pub(super) struct Aside {
    pub(super) writer: Writer,
    pub(super) suspects: Suspects,
    pub(super) teller: Teller,
    waiting: Vec<Waiting>,
    /// Each agent's sends and bytes.
    of: HashMap<Arc<str>, (usize, usize)>,
    bytes: usize,
}

/// A send, and why it had to wait when it was tried alone.
pub(super) type Given = (Item, Option<Held>);

impl Aside {
    pub(super) fn new(writer: Writer, suspects: Suspects, teller: Teller) -> Self {
        Self { writer, suspects, teller, waiting: Vec::new(), of: HashMap::new(), bytes: 0 }
    }

    /// Runs until the channel closes.
    pub(super) async fn run(mut self, mut given: mpsc::Receiver<Given>) {
        let mut came = Vec::new();
        loop {
            let now = Instant::now();
            let rest = now + REST_AFTER;
            let next = self.waiting.iter().map(|w| w.next.min(w.until)).min();
            tokio::select! {
                // New sends are taken first: taking one only stores it.
                biased;
                n = given.recv_many(&mut came, ASIDE_MAX) => match n {
                    0 => return,
                    _ => came.drain(..).for_each(|one| self.take(Instant::now(), one)),
                },
                () = sleep_until(next.unwrap_or(rest).into()) => match next {
                    None => self.writer.rest(),
                    Some(_) => self.round(Instant::now()).await,
                },
            }
        }
    }

    fn take(&mut self, now: Instant, (mut item, held): Given) {
        item.give_back_room();
        let bytes = item.bytes();
        let of = self.of.entry(item.agent().clone()).or_default();
        let is_full = self.waiting.len() >= ASIDE_MAX || self.bytes + bytes > ASIDE_BYTES_MAX;
        if is_full || of.0 >= OF_ONE_MAX || of.1 + bytes > OF_ONE_BYTES_MAX {
            if of.0 == 0 {
                self.of.remove(item.agent());
            }
            let sentence = "sends of this agent wait for another transaction, as many as may wait";
            return self.answer(item, Verdict::NotStored(sentence.to_owned()));
        }
        *of = (of.0 + 1, of.1 + bytes);
        self.bytes += bytes;
        let until = item.since + HELD_WAIT;
        let next = if held == Some(Held::Lock) { now + TRY_EVERY } else { now };
        self.waiting.push(Waiting { item, until, next, held });
    }

    /// Tries what is due: in batches the sends that never waited alone and those that wait for a lock, and last a
    /// single slow one, so that the others soon have their turn again.
    async fn round(&mut self, now: Instant) {
        self.give_up(now);
        // Any dedupe key may be held by another transaction, so sends without a key go first and do not wait while
        // the others are tried.
        for has_key in [false, true] {
            let mut bytes = 0;
            let batch = self.take_out(BATCH_MAX, |w| {
                let is_due = w.next <= now && w.held.is_none() && w.item.has_key() == has_key;
                bytes += if is_due { w.item.bytes() } else { 0 };
                is_due && bytes <= BATCH_BYTES_MAX
            });
            self.write(batch, (BATCH_WAIT, HALF_WAIT)).await;
        }
        let locked = self.take_out(BATCH_MAX, |w| w.next <= now && w.held == Some(Held::Lock));
        self.write(locked, (HALF_WAIT, HALF_WAIT)).await;
        let slow = self.take_out(1, |w| w.next <= now && w.held == Some(Held::Slow));
        self.write(slow, (SLOW_WAIT, SLOW_WAIT)).await;
    }

    fn take_out(&mut self, most: usize, mut which: impl FnMut(&Waiting) -> bool) -> Vec<Waiting> {
        let mut out = Vec::new();
        let mut stay = Vec::with_capacity(self.waiting.len());
        for one in self.waiting.drain(..) {
            let goes = out.len() < most && which(&one);
            if goes { out.push(one) } else { stay.push(one) }
        }
        self.waiting = stay;
        out
    }

    async fn write(&mut self, batch: Vec<Waiting>, patience: (Patience, Patience)) {
        if batch.is_empty() {
            return;
        }
        let mut answered = Vec::new();
        let mut items = Vec::with_capacity(batch.len());
        // `parts::write` gives back items only, so the deadline and the reason are kept by message id.
        let mut known = HashMap::with_capacity(batch.len());
        for Waiting { item, until, held, .. } in batch {
            known.insert(item.message.id, (until, held));
            items.push(item);
        }
        let left = parts::write(&mut self.writer, items, patience, |item, verdict| {
            answered.push((item, verdict));
        });
        let Left { held, untried, .. } = left.await;
        answered.into_iter().for_each(|(item, verdict)| self.forget_and_answer(item, verdict));
        let now = Instant::now();
        let of = |item: &Item| known.get(&item.message.id).copied().unwrap_or((now, None));
        for (item, waits) in held {
            let (until, _) = of(&item);
            self.suspects.add(now, item.agent());
            self.waiting.push(Waiting { item, until, next: now + TRY_EVERY, held: Some(waits) });
        }
        for item in untried {
            let (until, held) = of(&item);
            self.waiting.push(Waiting { item, until, next: now, held });
        }
    }

    fn give_up(&mut self, now: Instant) {
        for Waiting { item, held, .. } in self.take_out(usize::MAX, |w| w.until <= now) {
            let waited = HELD_WAIT.as_secs();
            let sentence = match held {
                Some(Held::Slow) => format!(
                    "the database took longer than {waited} s over this message: look at the triggers of agent_messages"
                ),
                _ => format!(
                    "for {waited} s the database could not take this message: another transaction holds what it \
                     needs, such as its dedupe_key, or the server is out of something"
                ),
            };
            self.forget_and_answer(item, Verdict::NotStored(sentence));
        }
    }

    fn forget_and_answer(&mut self, item: Item, verdict: Verdict) {
        let bytes = item.bytes();
        self.bytes -= bytes;
        if let Some(of) = self.of.get_mut(item.agent()) {
            *of = (of.0 - 1, of.1 - bytes);
            if of.0 == 0 {
                self.of.remove(item.agent());
            }
        }
        self.answer(item, verdict);
    }

    fn answer(&self, item: Item, verdict: Verdict) {
        self.suspects.left(item.agent());
        self.teller.tell(item, verdict);
    }
}
