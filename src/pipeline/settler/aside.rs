//! Tries again what was set aside because the user's tables did not take it: at its own pace, on a connection that
//! exists only while something is set aside.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::pipeline::rest::Rest;
use crate::store::aside::{Tries, next_due};
use crate::store::{Pool, StoreError, Target};
use crate::watch::health::{Duty, Health};

/// How often to look for what other brokers set aside, unless the broker rests.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// The least time between two tries: a table that refuses much must not keep the database busy.
const TRY_EVERY: Duration = Duration::from_secs(1);
/// The wait after the database failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Runs until the process ends; `told` says that something was set aside here. Several brokers may do this at once,
/// since each row is locked by one of them.
pub(crate) async fn run(target: Target, pool: Pool, (rest, told): (Rest, Arc<Notify>), health: Health) {
    let mut tries = Tries::new(target);
    loop {
        health.began(Duty::Aside, Instant::now());
        let turn = turn(&pool, &mut tries).await;
        match &turn {
            Ok(_) => health.succeeded(Duty::Aside),
            Err(e) => health.failed(Duty::Aside, e.to_string()),
        }
        let now = Instant::now();
        let due = match turn {
            Ok(next) => {
                if next.is_none() {
                    tries.rest();
                }
                next.map(|next| now + next.max(TRY_EVERY))
            }
            Err(e) => {
                tracing::debug!(error = %e, "what is set aside could not be tried; trying again");
                tries.rest();
                Some(now + AFTER_FAILURE)
            }
        };
        sleep(TRY_EVERY).await;
        // Whether told or not, it is time to look.
        tokio::select! {
            () = rest.turn(now + LOOK_EVERY, due) => {}
            () = told.notified() => {}
        }
    }
}

/// Tries the rows that are due. Returns the wait until the next is due, or `None` if nothing is set aside.
async fn turn(pool: &Pool, tries: &mut Tries) -> Result<Option<Duration>, StoreError> {
    let next = next_due(pool).await?;
    if next != Some(Duration::ZERO) {
        return Ok(next);
    }
    let tried = tries.retry_due().await?;
    if tried.written > 0 {
        tracing::info!(outcomes = tried.written, "outcomes that were set aside are written now");
    }
    Ok(Some(Duration::ZERO))
}
