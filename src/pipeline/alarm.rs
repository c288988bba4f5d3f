//! The time at which the next scheduled delivery is due: the tail sets it, the reaper waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

use tokio::sync::Notify;

/// The time of the next scheduled delivery: the earliest that was set and not yet taken. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alarm(Arc<(Mutex<Option<Instant>>, Notify)>);

impl Alarm {
    /// A scheduled delivery is due at this time.
    pub(crate) fn set(&self, at: Instant) {
        let mut next = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if next.is_none_or(|next| at < next) {
            *next = Some(at);
            self.0.1.notify_one();
        }
    }

    /// Waits until an earlier time is set, and takes it; `None` if another waiter took it first. Cancel-safe.
    pub(crate) async fn changed(&self) -> Option<Instant> {
        self.0.1.notified().await;
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
