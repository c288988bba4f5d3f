//! Marks messages that have been with an agent for a second. A connection of its own keeps a refused mark, or a
//! locked row, from delaying outcomes. A mark is a hint: if a row does not take it, it is dropped.

use std::time::Duration;

use tokio::time::Instant;

use tokio::sync::mpsc;
use tokio::time::sleep;
use uuid::Uuid;

use crate::store::blame;
use crate::store::cut_off::{ENDED, Losses, halves};
use crate::store::error::Fault;
use crate::store::settle::{SettleConnection, mark_delivered, mark_each};
use crate::store::{StoreError, Target};
use crate::watch::health::{Duty, Health};

/// The most marks in one statement, so that none lasts long.
pub(crate) const MARK_BATCH_MAX: usize = 500;
/// The pause after a failure. If the table is slow the rest of the batch is dropped, since other marks would be slow, too.
const PAUSE: Duration = Duration::from_secs(2);
/// The least time between two log lines that a row did not take its mark.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Runs until the dispatcher's task is gone.
pub(crate) async fn run(target: Target, mut marks: mpsc::Receiver<Vec<Uuid>>, health: Health) {
    let mut marker =
        DeliveredMarker { connection: SettleConnection::new(target), losses: Losses::new(Instant::now()) };
    let mut said: Option<Instant> = None;
    while let Some(messages) = marks.recv().await {
        health.began(Duty::Marks, Instant::now());
        for some in messages.chunks(MARK_BATCH_MAX) {
            match marker.mark_in_time(some, &health).await {
                Ok(None) => {}
                Ok(Some(why)) if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) => {
                    said = Some(Instant::now());
                    tracing::warn!(
                        why,
                        "messages could not be marked delivered; they are delivered all the same"
                    );
                }
                Ok(Some(_)) => {}
                Err(e) => {
                    tracing::debug!(error = %e, "messages could not be marked delivered");
                    sleep(PAUSE).await;
                    break;
                }
            }
        }
        health.succeeded(Duty::Marks);
    }
}

struct DeliveredMarker {
    connection: SettleConnection,
    losses: Losses,
}

impl DeliveredMarker {
    /// Marks these messages; waits for a database that is away.
    async fn mark_in_time(
        &mut self,
        messages: &[Uuid],
        health: &Health,
    ) -> Result<Option<String>, StoreError> {
        loop {
            match self.mark(messages).await {
                Err(e) if e.fault() == Fault::Passing => {
                    tracing::debug!(error = %e, "messages could not be marked delivered; trying again");
                    health.failed(Duty::Marks, e.to_string());
                    sleep(PAUSE).await;
                }
                marked => {
                    if marked.is_err() {
                        self.connection.rest();
                    }
                    return marked;
                }
            }
        }
    }

    /// Marks these messages. Returns the reason if a row did not take its mark.
    async fn mark(&mut self, messages: &[Uuid]) -> Result<Option<String>, StoreError> {
        match mark_delivered(self.connection.get().await?, messages).await {
            Ok(()) => Ok(None),
            Err(e) if e.is_cut_off() || self.may_be_a_row(&e).await => self.mark_apart(messages).await,
            Err(e) => Err(e),
        }
    }

    async fn may_be_a_row(&mut self, e: &StoreError) -> bool {
        match self.connection.get().await {
            Ok(connection) => blame::begins_on(connection, e).await,
            Err(_) => false,
        }
    }

    /// Marks the messages one by one, and in smaller and smaller groups where the server process, or the transaction, ends at one of
    /// them.
    async fn mark_apart(&mut self, messages: &[Uuid]) -> Result<Option<String>, StoreError> {
        let (mut why, mut groups) = (None, vec![messages]);
        while let Some(group) = groups.pop() {
            if self.losses.are_too_many(Instant::now()) {
                return Ok(why);
            }
            match (mark_each(self.connection.get().await?, group).await, group) {
                (Ok((_, said)), _) => why = why.or(said),
                (Err(e), _) if !e.may_be_of_a_row() => return Err(e),
                (Err(e), _) => {
                    self.losses.add(Instant::now());
                    if let [_] = group {
                        if !e.is_cut_off() && !self.may_be_a_row(&e).await {
                            return Err(e);
                        }
                        why = Some(if e.is_cut_off() { ENDED.to_owned() } else { e.to_string() });
                    } else {
                        groups.extend(halves(group));
                    }
                }
            }
        }
        Ok(why)
    }
}
