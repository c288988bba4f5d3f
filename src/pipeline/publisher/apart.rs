//! Sends that had to wait, and the same agents' sends meanwhile: tried apart from all others, within a bound.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::mpsc;
use tokio::time::sleep_until;

use super::item::{Item, Teller, Verdict};
use super::parts::{self, Left};
use super::slow::SLOW;
use super::suspects::Suspects;
use super::{BATCH_BYTES_MAX, BATCH_WAIT, HALF_WAIT};
use crate::store::cut_off::Losses;
use crate::store::publish::{InsertPatience, WaitReason, Writer};

/// A send that still has to wait after this time is answered `unavailable`.
pub const HELD_WAIT: Duration = Duration::from_secs(3);
/// The wait between two tries of a send that waits for a lock.
const TRY_EVERY: Duration = Duration::from_millis(100);
/// How long one send with a slow trigger may take, tried alone.
const SLOW_WAIT: InsertPatience = InsertPatience { lock: HALF_WAIT.lock, statement: Duration::from_secs(2) };
/// The most sends in one round.
const BATCH_MAX: usize = 100;
/// The most sends that are apart at a time, and their bytes; below, the same for one agent. Beyond these bounds a
/// send is answered `unavailable` at once.
pub(super) const APART_MAX: usize = 1_024;
const APART_BYTES_MAX: usize = 16 * 1024 * 1024;
const OF_ONE_MAX: usize = 256;
const OF_ONE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// The connection is closed after this long without a send, because sends seldom wait.
const REST_AFTER: Duration = Duration::from_secs(30);

// A statement must end before its connection counts as dead.
const _: () = assert!(SLOW_WAIT.statement.as_millis() < crate::store::connection::ANSWER_WAIT.as_millis());
const _: () = assert!(OF_ONE_MAX * 4 <= APART_MAX && OF_ONE_BYTES_MAX * 4 <= APART_BYTES_MAX);

struct WaitingSend {
    item: Item,
    until: Instant,
    next: Instant,
    /// Why it had to wait when it was tried alone.
    held: Option<WaitReason>,
}

/// The task that tries them.
pub(super) struct SendsApart {
    pub(super) writer: Writer,
    losses: Losses,
    pub(super) suspects: Suspects,
    pub(super) teller: Teller,
    waiting: Vec<WaitingSend>,
    /// Each agent's sends and bytes.
    of: HashMap<Arc<str>, (usize, usize)>,
    bytes: usize,
}

/// A send, and why it had to wait when it was tried alone.
pub(super) type Given = (Item, Option<WaitReason>);

impl SendsApart {
    pub(super) fn new(writer: Writer, suspects: Suspects, teller: Teller) -> Self {
        let losses = Losses::new(Instant::now());
        Self { writer, losses, suspects, teller, waiting: Vec::new(), of: HashMap::new(), bytes: 0 }
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
                n = given.recv_many(&mut came, APART_MAX) => match n {
                    0 => return,
                    _ => came.drain(..).for_each(|one| self.take(Instant::now(), one)),
                },
                () = sleep_until(next.unwrap_or(rest)) => match next {
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
        let is_full = self.waiting.len() >= APART_MAX || self.bytes + bytes > APART_BYTES_MAX;
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
        let next = if held == Some(WaitReason::Lock) { now + TRY_EVERY } else { now };
        // A connection for each is too dear: it is tried among others.
        let held = held.filter(|held| *held != WaitReason::ReadOnly);
        self.waiting.push(WaitingSend { item, until, next, held });
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
        let locked = self.take_out(BATCH_MAX, |w| w.next <= now && w.held == Some(WaitReason::Lock));
        self.write(locked, (HALF_WAIT, HALF_WAIT)).await;
        let slow = self.take_out(1, |w| w.next <= now && w.held == Some(WaitReason::Slow));
        self.write(slow, (SLOW_WAIT, SLOW_WAIT)).await;
    }

    fn take_out(&mut self, most: usize, mut which: impl FnMut(&WaitingSend) -> bool) -> Vec<WaitingSend> {
        let mut out = Vec::new();
        let mut stay = Vec::with_capacity(self.waiting.len());
        for one in self.waiting.drain(..) {
            let goes = out.len() < most && which(&one);
            if goes { out.push(one) } else { stay.push(one) }
        }
        self.waiting = stay;
        out
    }

    async fn write(&mut self, batch: Vec<WaitingSend>, patience: (InsertPatience, InsertPatience)) {
        if batch.is_empty() {
            return;
        }
        let (mut answered, began) = (Vec::new(), Instant::now());
        let agents: Vec<_> = batch.iter().map(|w| w.item.agent().clone()).collect();
        let mut items = Vec::with_capacity(batch.len());
        // `parts::write` gives back items only, so the deadline and the reason are kept by message id.
        let mut known = HashMap::with_capacity(batch.len());
        for WaitingSend { item, until, held, .. } in batch {
            known.insert(item.message.id, (until, held));
            items.push(item);
        }
        let left = parts::write((&mut self.writer, &mut self.losses), items, patience, |item, verdict| {
            answered.push((item, verdict));
        });
        let Left { held, untried, why, .. } = left.await;
        answered.into_iter().for_each(|(item, verdict)| self.forget_and_answer(item, verdict));
        let now = Instant::now();
        if now.saturating_duration_since(began) >= SLOW {
            // Their sends are as slow as they were: back among the others they would be found again.
            agents.iter().for_each(|agent| _ = self.suspects.add(now, agent));
        }
        let of = |item: &Item| known.get(&item.message.id).copied().unwrap_or((now, None));
        for (item, waits) in held {
            let (until, _) = of(&item);
            self.suspects.add(now, item.agent());
            if waits == WaitReason::ReadOnly {
                // Another try would cost another connection.
                self.forget_and_answer(item, Verdict::NotStored(why.clone().unwrap_or_default()));
                continue;
            }
            self.waiting.push(WaitingSend { item, until, next: now + TRY_EVERY, held: Some(waits) });
        }
        for item in untried {
            let (until, held) = of(&item);
            self.waiting.push(WaitingSend { item, until, next: now, held });
        }
    }

    fn give_up(&mut self, now: Instant) {
        for WaitingSend { item, held, .. } in self.take_out(usize::MAX, |w| w.until <= now) {
            let waited = HELD_WAIT.as_secs();
            let sentence = match held {
                Some(WaitReason::Slow) => format!(
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
