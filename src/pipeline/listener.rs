//! Keeps the connection that listens for the bell open: reconnects when it closes, and when its canaries stop coming
//! back although it looks alive.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{interval, sleep};
use uuid::Uuid;

use crate::base::pace::Pace;
use crate::store::Target;
use crate::store::listen::{Rope, listen};
use crate::watch::health::Health;

/// The connection counts as dead once this many canaries in a row have not come back.
const CANARIES_LOST_MAX: u32 = 3;
const CHECK_EVERY: Duration = Duration::from_secs(1);
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_secs(1);

/// Listens until the process ends.
pub(crate) async fn run(target: Target, broker: Uuid, rope: Arc<Rope>, health: Health) {
    let mut pace = Pace::new(RECONNECT_FIRST, RECONNECT_MAX);
    loop {
        match listen(&target, broker, rope.clone()).await {
            Ok(mut connection) => {
                rope.set_up(true);
                health.set_listening(true);
                pace.reset();
                let mut check = interval(CHECK_EVERY);
                let why = loop {
                    tokio::select! {
                        () = connection.closed() => break "the connection was lost",
                        _ = check.tick() => if rope.unanswered() >= CANARIES_LOST_MAX {
                            break "its canaries do not come back";
                        },
                    }
                };
                rope.set_up(false);
                health.set_listening(false);
                tracing::warn!(why, "the bell is not heard; tailing on the clock until it is");
            }
            Err(e) => tracing::warn!(error = %e, "listening for the bell failed; trying again"),
        }
        sleep(pace.next_wait()).await;
    }
}
