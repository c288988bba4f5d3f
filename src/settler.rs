//! The settler: writes outcomes, batch after batch, for as long as it takes.
//!
//! An outcome that cannot be written stays: the batch is tried again on a new connection until the database is
//! back, since the agent has done its part. A batch that was committed although the answer was lost is written
//! twice, which changes nothing: each outcome is compared with its attempt.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::dispatch::{Input, Inputs, SettleBatch};
use crate::flow::Flow;
use crate::inbox::event::{DeadCause, Event, FailCause, Outcome, Settle};
use crate::metrics::{DeadReason, FailReason, Metrics};
use crate::pace::Pace;
use crate::postgres::settle::{mark_delivered, settle};
use crate::postgres::{Connection, StoreError, Target};

/// The first and the longest wait before a connection is tried again; short, since every settled ack waits.
const RECONNECT_FIRST: Duration = Duration::from_millis(100);
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// Two batches begin at least so far apart, unless somebody waits for the news of a COMMIT: each costs a flush of the
/// log, which producers wait for too, and most of what a settle of a few rows costs is not the rows.
const SETTLE_EVERY: Duration = Duration::from_millis(5);

/// Runs until the dispatcher's task is gone and its last batch is written.
pub async fn run(
    target: Target,
    mut batches: mpsc::Receiver<SettleBatch>,
    inputs: mpsc::WeakSender<Input>,
    wake: std::sync::Arc<tokio::sync::Notify>,
    metrics: Metrics,
    flow: Flow,
) {
    let mut connection = None;
    let mut pace = Pace::new(RECONNECT_FIRST, RECONNECT_MAX);
    let mut next = Instant::now();
    loop {
        tokio::time::sleep_until(next.into()).await;
        let Some(mut batch) = batches.recv().await else { return };
        if batch.settles.iter().all(|s| s.answer.is_none()) {
            next = Instant::now() + SETTLE_EVERY;
        }
        while let Err(e) = write(&target, &mut connection, &mut batch, &metrics).await {
            connection = None;
            let wait = pace.next_wait();
            tracing::warn!(error = %e, outcomes = batch.settles.len(), ?wait, "settling failed; trying again");
            tokio::time::sleep(wait).await;
        }
        pace.reset();
        if batch.settles.iter().any(|s| is_ready_again(&s.outcome)) {
            wake.notify_one();
        }
        if batch.settles.is_empty() {
            continue;
        }
        flow.settled(Instant::now(), &batch.settles);
        report(inputs.upgrade(), batch.settles).await;
    }
}

async fn report(inputs: Option<Inputs>, settles: Vec<Settle>) {
    if let Some(inputs) = inputs {
        // The dispatcher's task may be gone: then nobody needs to know.
        let _ = inputs.send(Input::Event(Event::Settled(settles))).await;
    }
}

async fn write(
    target: &Target,
    connection: &mut Option<Connection>,
    batch: &mut SettleBatch,
    metrics: &Metrics,
) -> Result<(), StoreError> {
    let connection = match connection {
        Some(open) if !open.is_closed() => open,
        _ => connection.insert(Connection::open(target).await?),
    };
    if !batch.marks.is_empty() {
        mark_delivered(connection, &batch.marks).await?;
        batch.marks.clear();
    }
    if !batch.settles.is_empty() {
        let changed = settle(connection, &batch.settles).await?;
        metrics.settle_batch.observe(batch.settles.len() as f64);
        metrics.acked.inc_by(changed.acked);
        metrics.expired.inc_by(changed.expired);
        batch.settles.iter().for_each(|s| count(s, metrics));
    }
    Ok(())
}

fn count(settle: &Settle, metrics: &Metrics) {
    match &settle.outcome {
        Outcome::Ack { handled } => metrics.handling_seconds.observe(handled.as_secs_f64()),
        Outcome::Fail { cause, .. } => metrics.failed(match cause {
            FailCause::Nack => FailReason::Nack,
            FailCause::Deadline => FailReason::Deadline,
            FailCause::Disconnect => FailReason::Disconnect,
        }),
        Outcome::Dead { cause, .. } => metrics.dead(match cause {
            DeadCause::MaxAttempts => DeadReason::MaxAttempts,
            DeadCause::Rejected => DeadReason::Rejected,
            DeadCause::PayloadTooLarge => DeadReason::PayloadTooLarge,
        }),
        Outcome::Release { .. } | Outcome::Spare { .. } | Outcome::Relane { .. } | Outcome::Expired => {}
    }
}

fn is_ready_again(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Release { delay } | Outcome::Fail { delay, .. } => delay.is_zero(),
        Outcome::Spare { .. } | Outcome::Relane { .. } => true,
        Outcome::Ack { .. } | Outcome::Dead { .. } | Outcome::Expired => false,
    }
}
