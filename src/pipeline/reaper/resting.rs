//! The look that stands for all sweeps while the broker rests.

use std::time::Duration;

use tokio::time::Instant;

use crate::pipeline::rest::Rest;
use crate::store::Pool;
use crate::store::alerts::AlertTimes;
use crate::store::resting::first_due;

/// How often is looked: somebody may have written something of which there is no sign.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Looks while the broker rests, and ends the rest when something is due. So does a look that fails, because a sweep gets past a
/// row at which the look fails. Runs until the process ends.
pub(crate) async fn run(pool: Pool, times: AlertTimes, rest: Rest) {
    loop {
        rest.begun().await;
        let due = match first_due(&pool, times).await {
            Ok(due) => due,
            Err(error) => {
                tracing::debug!(%error, "whether anything is due cannot be seen at once: each sweep looks by itself");
                Some(Duration::ZERO)
            }
        };
        let wait = due.unwrap_or(LOOK_EVERY);
        let is_stirred = rest.stirred_until(Instant::now() + wait.min(LOOK_EVERY)).await;
        if !is_stirred && wait <= LOOK_EVERY && due.is_some() {
            rest.stir();
        }
    }
}
