//! The settler writes outcomes in batches, and never depends on whether the user's table accepts a status.
//!
//! A batch takes one statement per kind of outcome. If a row, a constraint, a trigger or a lock of the user's refuses
//! that statement, the outcomes are written one by one, in one statement: each delivery's own change is made, and a
//! status that the message's row does not take is set aside with the reason (`postbell.set_aside`, which [`aside`]
//! tries again). An outcome stays here, because the agent has done its part, only while the server cannot be reached,
//! another transaction holds the delivery, or a part of Postbell's own tables refuses this one ([`hurt`]).
//!
//! If a batch was committed but the answer was lost, the batch is written twice. The second time changes nothing,
//! since each outcome is compared with its attempt. Outcomes that the second try finds settled count as written by
//! the first.

pub(crate) mod aside;
mod cut_off;
mod hurt;
pub(crate) mod marker;
mod slow;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, sleep_until, timeout_at};
use uuid::Uuid;

use crate::base::pace::Pace;
use crate::pipeline::dispatch::{Input, Inputs, SETTLE_BATCH_MAX};
use crate::store::cut_off::Losses;
use crate::store::error::Fault;
use crate::store::settle::{Became, Kind, SettleConnection, Settled, relane_each, settle_each, settle_kind};
use crate::store::{Connection, StoreError, Target};
use crate::watch::flow::Flow;
use crate::watch::health::{Duty, Health};
use crate::watch::metrics::{DeadReason, FailReason, Metrics};
use hurt::Hurt;
use postbell_engine::inbox::event::{DeadCause, Event, FailCause, Outcome, Settle};
use slow::{ALONE_MAX, SlowInboxes};

/// The first and the longest wait before reconnecting. Both are short, because every ack waits meanwhile.
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// The least time between the starts of two batches, unless somebody waits to hear of a COMMIT. Each batch costs a
/// flush of the log, which producers wait for too, and for a few rows that flush is most of the cost.
const SETTLE_EVERY: Duration = Duration::from_millis(5);
/// The wait before a delivery that another transaction holds is tried again.
const HELD_FOR: Duration = Duration::from_millis(200);
/// The longest time for which a table that refuses again and again is spared statements for whole batches. One by one
/// costs a few times as much.
const CAREFUL_MAX: Duration = Duration::from_secs(30);
/// A server that answers this often that it cannot for now may only repeat what a trigger raises; then outcomes are
/// written one by one.
const PASSING_MAX: u32 = 2;
/// A statement that the server gave up so late was slow. A trigger may raise the same code at once.
const SLOW_FROM: Duration = Duration::from_millis(300);
/// The least time between two log lines that something was set aside.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The channels and settings of the settler.
pub(crate) struct Settler {
    /// The database to write to.
    pub target: Target,
    /// This broker, which wakes its own tail and rings for another's.
    pub broker: Uuid,
    /// The dispatcher, which learns which outcomes are written.
    pub inputs: mpsc::WeakSender<Input>,
    /// Wakes the tail when a delivery is ready again.
    pub wake: Arc<Notify>,
    /// Notified when something was set aside.
    pub aside: Arc<Notify>,
    /// Learns how settling goes.
    pub health: Health,
    /// Counts written outcomes.
    pub metrics: Metrics,
    /// Shows written outcomes to those who watch.
    pub flow: Flow,
}

/// The connection, and what is known of the table.
struct Desk {
    connection: SettleConnection,
    pace: Pace,
    /// No statement for a whole batch is tried before this time.
    careful_until: Instant,
    refusals: u32,
    said: Option<Instant>,
    /// Connections that were lost while a batch was searched for the row to blame.
    losses: Losses,
    /// Until then such a row is expected, so that one lost connection is enough to search a batch.
    ends_until: Instant,
    /// Outcomes that can be written nowhere.
    hurt: Hurt,
    slow: SlowInboxes,
    /// Inboxes are tried alone until then, in one turn.
    alone_until: Instant,
}

/// Outcomes of a batch that are not over.
#[derive(Default)]
struct Unwritten {
    held: Vec<Settle>,
    hurt: Vec<Settle>,
    is_better: bool,
}

impl Settler {
    /// Runs until the dispatcher's task is gone and its last batch is written.
    pub(crate) async fn run(self, mut batches: mpsc::Receiver<Vec<Settle>>) {
        let pace = Pace::new(RECONNECT_FIRST, RECONNECT_MAX);
        let now = Instant::now();
        let mut desk = Desk {
            connection: SettleConnection::new(self.target.clone()),
            pace,
            careful_until: now,
            refusals: 0,
            said: None,
            losses: Losses::new(now),
            ends_until: now,
            hurt: Hurt::new(now),
            slow: SlowInboxes::default(),
            alone_until: now,
        };
        let mut next = now;
        // Deliveries that another transaction holds.
        let mut held: Vec<Settle> = Vec::new();
        let mut held_until = now;
        loop {
            sleep_until(next).await;
            let again = (!held.is_empty()).then_some(held_until);
            let mut batch = match again.into_iter().chain(desk.hurt.until()).min() {
                None => match batches.recv().await {
                    Some(batch) => batch,
                    None => return,
                },
                Some(at) => match timeout_at(at, batches.recv()).await {
                    Ok(Some(batch)) => batch,
                    // Nobody waits for outcomes that can be written nowhere: their deliveries are made again.
                    Ok(None) if held.is_empty() => return,
                    Ok(None) => {
                        sleep_until(held_until).await;
                        Vec::new()
                    }
                    Err(_) => Vec::new(),
                },
            };
            if batch.iter().all(|s| s.answer.is_none()) {
                next = Instant::now() + SETTLE_EVERY;
            }
            if held_until <= Instant::now() {
                batch.append(&mut held);
                held_until = Instant::now() + HELD_FOR;
            }
            self.health.began(Duty::Settle, Instant::now());
            desk.alone_until = Instant::now() + ALONE_MAX;
            for (kind, batch) in by_kind(desk.hurt.keep_apart(batch)) {
                for (trial, batch) in desk.parts(kind, batch) {
                    let settled = self.write_part(&mut desk, kind, trial, &batch).await;
                    let waiting = self.tell(batch, &settled).await;
                    held.extend(waiting.held);
                    desk.hurt.add(waiting.hurt, settled.hurt.unwrap_or_default());
                }
            }
            self.health.succeeded(Duty::Settle);
            self.try_hurt(&mut desk).await;
            self.health.set_hurt(desk.hurt.report());
        }
    }

    /// Tries outcomes again that could be written nowhere, if their time has come.
    async fn try_hurt(&self, desk: &mut Desk) {
        let due = desk.hurt.take_due(Instant::now());
        if due.is_empty() {
            return;
        }
        let mut all = Unwritten::default();
        let mut is_all_over = true;
        let (lanes, others) = due.into_iter().partition(|s| !Kind::of(&s.outcome).marks());
        let parts: [Vec<Settle>; 2] = [lanes, others];
        for batch in parts.into_iter().filter(|batch| !batch.is_empty()) {
            let settled = desk.try_hurt(self.broker, &batch).await;
            self.note_aside(desk, &settled);
            let waiting = self.tell(batch, &settled).await;
            is_all_over &= waiting.held.is_empty() && waiting.hurt.is_empty();
            all.held.extend(waiting.held);
            all.is_better |= waiting.is_better;
            desk.hurt.add(waiting.hurt, settled.hurt.unwrap_or_default());
        }
        desk.hurt.tried(all.held, all.is_better, is_all_over);
    }

    /// Tries until each outcome is written, set aside, or held by another transaction. `in_doubt`: an answer was lost, so
    /// outcomes found settled now may be this broker's own.
    async fn write(&self, desk: &mut Desk, kind: Kind, batch: &[Settle], mut in_doubt: bool) -> Settled {
        let (mut failures, mut cut_off) = (0, 0);
        loop {
            let searches = kind.marks() && cut_off >= desk.cut_off_max();
            let tried = match searches {
                true => desk.search(self.broker, batch).await,
                false => self.try_once(desk, kind, batch, failures >= PASSING_MAX).await,
            };
            match tried {
                Ok(mut settled) => {
                    desk.pace.reset();
                    if in_doubt {
                        settled.count_stale_as_written();
                    }
                    self.note_aside(desk, &settled);
                    return settled;
                }
                // Nothing is written, and even Postbell's own tables took too long: each inbox has a turn of its own.
                Err(e) if e.is_slow() && kind.marks() => {
                    tracing::debug!(error = %e, outcomes = batch.len(), "a batch took too long: inbox by inbox");
                    desk.slow.suspect(batch, Instant::now());
                    return Settled::all(Became::Held, batch.len());
                }
                Err(e) => {
                    in_doubt |= leaves_doubt(&e) || searches;
                    cut_off += u32::from(e.is_cut_off());
                    failures += u32::from(e.sqlstate().is_some());
                    if e.sqlstate().is_none() {
                        desk.connection.rest();
                    }
                    let (wait, outcomes) = (desk.pace.next_wait(), batch.len());
                    self.health.failed(Duty::Settle, format!("{e}; {outcomes} outcomes wait to be written"));
                    tracing::warn!(error = %e, outcomes, ?wait, "settling failed; trying again");
                    sleep(wait).await;
                }
            }
        }
    }

    /// Writes the batch by one statement; if that is refused, one by one; and without the user's rows if that takes
    /// too long.
    async fn try_once(
        &self,
        desk: &mut Desk,
        kind: Kind,
        batch: &[Settle],
        insist: bool,
    ) -> Result<Settled, StoreError> {
        if !kind.marks() {
            return match settle_kind(desk.connection.get().await?, self.broker, kind, batch).await {
                Err(e) if e.sqlstate().is_some() && e.fault() != Fault::Passing => {
                    relane_each(desk.connection.get().await?, self.broker, batch).await
                }
                settled => settled,
            };
        }
        if !insist && desk.careful_until <= Instant::now() {
            let began = Instant::now();
            match settle_kind(desk.connection.get().await?, self.broker, kind, batch).await {
                Ok(settled) => {
                    desk.refusals = 0;
                    self.metrics.settle_batch.observe(batch.len() as f64);
                    return Ok(settled);
                }
                Err(e) if e.sqlstate().is_none() || e.fault() == Fault::Passing => return Err(e),
                Err(e) => {
                    tracing::debug!(error = %e, "a batch of outcomes was refused: one by one");
                    desk.refusals += 1;
                    desk.careful_until = Instant::now() + careful(desk.refusals);
                    // Another try by row would take as long again, and everybody's outcomes wait for it.
                    if e.is_slow() && began.elapsed() >= SLOW_FROM {
                        desk.slow.suspect(batch, Instant::now());
                        return settle_each(desk.connection.get().await?, self.broker, batch, false).await;
                    }
                }
            }
        }
        let began = Instant::now();
        let settled = one_by_one(desk.connection.get().await?, self.broker, batch).await?;
        if began.elapsed() >= SLOW_FROM {
            desk.slow.suspect(batch, Instant::now());
        }
        self.metrics.settle_batch.observe(batch.len() as f64);
        Ok(settled)
    }

    /// Has what was set aside tried again, and logs that.
    fn note_aside(&self, desk: &mut Desk, settled: &Settled) {
        if settled.became.contains(&Became::Aside) {
            self.aside.notify_one();
            desk.say(settled);
        }
    }

    /// Counts the written outcomes and tells the dispatcher. Returns those that are not over.
    async fn tell(&self, batch: Vec<Settle>, settled: &Settled) -> Unwritten {
        let (mut over, mut waiting, mut changed) = (Vec::new(), Unwritten::default(), Vec::new());
        for (settle, became) in batch.into_iter().zip(&settled.became) {
            if let Became::Held | Became::Hurt = became {
                let list = if *became == Became::Held { &mut waiting.held } else { &mut waiting.hurt };
                list.push(settle);
                continue;
            }
            if matches!(became, Became::Written | Became::Aside) {
                count(&settle, &self.metrics);
                changed.push(settle.clone());
            }
            over.push(settle);
        }
        if changed.iter().any(|s| is_in_the_tail_again(&s.outcome)) {
            self.wake.notify_one();
        }
        self.flow.settled(Instant::now(), &changed);
        if !over.is_empty() {
            waiting.is_better = true;
            report(self.inputs.upgrade(), over).await;
        }
        waiting
    }
}

impl Desk {
    /// Logs that outcomes were set aside, at most once in `SAY_EVERY`: a table that refuses one refuses many.
    fn say(&mut self, settled: &Settled) {
        let aside = settled.became.iter().filter(|b| **b == Became::Aside).count();
        if self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            self.said = Some(Instant::now());
            let why = settled.why.as_deref().unwrap_or_default();
            tracing::warn!(
                outcomes = aside,
                why,
                "outcomes were set aside; `postbell aside list` shows them"
            );
        }
    }
}

/// Whether a statement may have been committed though it failed.
fn leaves_doubt(e: &StoreError) -> bool {
    e.sqlstate().is_none() || e.is_cut_off()
}

/// Writes each outcome, without the user's rows if these take too long.
async fn one_by_one(connection: &Connection, broker: Uuid, batch: &[Settle]) -> Result<Settled, StoreError> {
    match settle_each(connection, broker, batch, true).await {
        Err(e) if e.sqlstate().is_some() && !e.is_cut_off() => {
            settle_each(connection, broker, batch, false).await
        }
        settled => settled,
    }
}

/// How long statements for whole batches are not tried after this many refusals in a row. One refusal costs no time,
/// since most often one row was to blame.
fn careful(refusals: u32) -> Duration {
    match refusals {
        0 | 1 => Duration::ZERO,
        n => (Duration::from_secs(1) * 2u32.pow((n - 2).min(5))).min(CAREFUL_MAX),
    }
}

fn by_kind(batch: Vec<Settle>) -> BTreeMap<Kind, Vec<Settle>> {
    let mut kinds: BTreeMap<Kind, Vec<Settle>> = BTreeMap::new();
    for settle in batch {
        kinds.entry(Kind::of(&settle.outcome)).or_default().push(settle);
    }
    kinds
}

async fn report(inputs: Option<Inputs>, settles: Vec<Settle>) {
    if let Some(inputs) = inputs {
        // The dispatcher's task may be gone: then nobody needs the event.
        let _ = inputs.send(Input::Event(Event::Settled(settles))).await;
    }
}

/// Counts an outcome, once, when it is written.
fn count(settle: &Settle, metrics: &Metrics) {
    match &settle.outcome {
        Outcome::Ack { handled } => {
            metrics.acked.inc();
            metrics.handling_seconds.observe(handled.as_secs_f64());
        }
        Outcome::Fail { cause, .. } => metrics.failed(match cause {
            FailCause::Nack => FailReason::Nack,
            FailCause::Deadline => FailReason::Deadline,
            FailCause::Disconnect => FailReason::Disconnect,
        }),
        Outcome::Dead { cause, .. } => metrics.dead(match cause {
            DeadCause::MaxAttempts => DeadReason::MaxAttempts,
            DeadCause::Rejected => DeadReason::Rejected,
            DeadCause::PayloadTooLarge => DeadReason::PayloadTooLarge,
            DeadCause::Unreadable => DeadReason::Unreadable,
        }),
        Outcome::Expired => metrics.expired.inc(),
        Outcome::Unseen { .. } => metrics.unseen.inc(),
        Outcome::Release { .. } | Outcome::Spare { .. } | Outcome::Relane { .. } => {}
    }
}

/// Whether the tail finds the row once more: ready, or scheduled. Nobody rings for the row while the inbox is this broker's, so
/// without a wake the safety round would find it, and count it as late.
fn is_in_the_tail_again(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Release { .. }
        | Outcome::Fail { .. }
        | Outcome::Spare { .. }
        | Outcome::Relane { .. }
        | Outcome::Unseen { .. } => true,
        Outcome::Ack { .. } | Outcome::Dead { .. } | Outcome::Expired => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_refuses_again_and_again_is_spared() {
        assert_eq!(careful(1), Duration::ZERO);
        assert_eq!(careful(2), Duration::from_secs(1));
        assert_eq!(careful(4), Duration::from_secs(4));
        assert_eq!(careful(40), CAREFUL_MAX);
    }
}
