//! Tries again what the user's tables did not take: in its own time, on a connection of its own while there is something.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::store::aside::{next_due, retry_due};
use crate::store::{Connection, Pool, StoreError, Target, settle};

/// How often it is looked at what other brokers set aside.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// What is due is tried at most so often: a table that refuses much must not be what the database is busy with.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// After a failure of the database.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Runs for ever; `told` says that something was set aside here. Several brokers on a database do it beside each other: each row is
/// locked by one.
pub async fn run(target: Target, pool: Pool, told: Arc<Notify>) {
    let mut connection = None;
    loop {
        let wait = match turn(&target, &pool, &mut connection).await {
            Ok(Some(next)) => next.clamp(TRY_EVERY, LOOK_EVERY),
            Ok(None) => {
                connection = None;
                LOOK_EVERY
            }
            Err(e) => {
                tracing::debug!(error = %e, "what is set aside could not be tried; trying again");
                connection = None;
                AFTER_FAILURE
            }
        };
        sleep(TRY_EVERY.min(wait)).await;
        // Either way it is time to look.
        let _ = timeout(wait.saturating_sub(TRY_EVERY), told.notified()).await;
    }
}

/// Tries what is due, and says when the next is, if anything is set aside.
async fn turn(
    target: &Target,
    pool: &Pool,
    connection: &mut Option<Connection>,
) -> Result<Option<Duration>, StoreError> {
    let next = next_due(pool).await?;
    if next != Some(Duration::ZERO) {
        return Ok(next);
    }
    let connection = match connection {
        Some(open) if !open.is_closed() => open,
        closed => closed.insert(settle::open(target).await?),
    };
    let tried = retry_due(connection).await?;
    if tried.written > 0 {
        tracing::info!(outcomes = tried.written, "outcomes that were set aside are written now");
    }
    Ok(Some(Duration::ZERO))
}
