//! Tries again what was set aside because the user's tables did not take it: at its own pace, on a connection that
//! exists only while something is set aside.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::store::aside::{next_due, retry_due};
use crate::store::{Connection, Pool, StoreError, Target, settle};

/// How often to look for what other brokers set aside.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// The least time between two tries: a table that refuses much must not keep the database busy.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// The wait after the database failed.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Runs until the process ends; `told` says that something was set aside here. Several brokers may do this at once,
/// since each row is locked by one of them.
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
        // Whether notified or timed out, it is time to look.
        let _ = timeout(wait.saturating_sub(TRY_EVERY), told.notified()).await;
    }
}

/// Tries the rows that are due. Returns the wait until the next is due, or `None` if nothing is set aside.
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
