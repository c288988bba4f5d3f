//! Marks messages that have been with an agent for a second. A connection of its own keeps a refused mark, or a
//! locked row, from delaying outcomes. A mark is a hint: if a row does not take it, it is dropped.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::time::sleep;
use uuid::Uuid;

use crate::store::settle::{self, mark_delivered, mark_each};
use crate::store::{Connection, StoreError, Target};

/// The most marks in one statement, so that none lasts long.
pub const MARK_BATCH_MAX: usize = 500;
/// The pause after a failure; the rest of the batch is dropped, since a table that refuses one mark refuses many.
const PAUSE: Duration = Duration::from_secs(2);
/// The least time between two log lines that a row did not take its mark.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// Runs until the dispatcher's task is gone.
pub async fn run(target: Target, mut marks: mpsc::Receiver<Vec<Uuid>>) {
    let mut connection = None;
    let mut said: Option<Instant> = None;
    while let Some(messages) = marks.recv().await {
        for some in messages.chunks(MARK_BATCH_MAX) {
            match mark(&target, &mut connection, some).await {
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
                    connection = None;
                    sleep(PAUSE).await;
                    break;
                }
            }
        }
    }
}

/// Marks these messages. Returns the reason if a row did not take its mark.
async fn mark(
    target: &Target,
    connection: &mut Option<Connection>,
    messages: &[Uuid],
) -> Result<Option<String>, StoreError> {
    let connection = match connection {
        Some(open) if !open.is_closed() => open,
        closed => closed.insert(settle::open(target).await?),
    };
    match mark_delivered(connection, messages).await {
        Ok(()) => Ok(None),
        Err(e) if e.is_retryable() => Err(e),
        Err(_) => Ok(mark_each(connection, messages).await?.1),
    }
}
