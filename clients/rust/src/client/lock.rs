//! Locks: one of several processes that could do a task does it.

use std::time::Duration;

use tokio::time::Instant;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::dead::strange;
use super::{Client, ClientError};
use crate::protocol::frame::lock::{AcquireLock, ReleaseLock};
use crate::protocol::{ClientFrame, ServerFrame};

/// A lock is renewed when this part of its time has passed.
const RENEW_AT: u32 = 3;
/// A lock that could not be renewed is given up when this part of its time is left, in which the task can stop.
const MARGIN: u32 = 6;
const _: () = assert!(MARGIN > RENEW_AT);
/// The pause after a renewal that failed.
const RENEW_AGAIN: Duration = Duration::from_millis(200);

/// The answer to asking for a lock.
#[derive(Debug)]
pub enum Acquired {
    /// This process holds the lock.
    Held(Lock),
    /// Another agent holds the lock, or the task is done.
    Taken {
        /// The agent that holds the lock, or that held it when the task was done.
        holder: Option<String>,
        /// How long the holder still has, unless it renews the lock.
        left: Option<Duration>,
        /// The task is done: there is nothing left to do.
        is_done: bool,
    },
}

/// A lock that is held, and renewed until this is dropped; then it ends by its time.
#[derive(Debug)]
pub struct Lock {
    client: Client,
    key: String,
    fence: i64,
    ttl: Duration,
    lost: watch::Receiver<bool>,
    renewing: JoinHandle<()>,
}

impl Client {
    /// Asks for the lock of a task. The lock is held for `ttl` at a time, from a second to an hour, and renewed
    /// by itself. If this process dies, others get the lock after that time.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lock(&self, key: &str, ttl: Duration) -> Result<Acquired, ClientError> {
        // Counted from before the request, so that the lock ends here no later than at the server.
        let held_until = Instant::now() + ttl;
        let answer = self.hold(key, ttl, None).await?;
        let Some(fence) = answer.fence else {
            let left = answer.left_ms.map(Duration::from_millis);
            return Ok(Acquired::Taken { holder: answer.holder, left, is_done: answer.done });
        };
        let (is_lost, lost) = watch::channel(false);
        let renewing = tokio::spawn(renew(self.clone(), key.to_owned(), fence, ttl, held_until, is_lost));
        Ok(Acquired::Held(Lock { client: self.clone(), key: key.to_owned(), fence, ttl, lost, renewing }))
    }

    async fn hold(
        &self,
        key: &str,
        ttl: Duration,
        fence: Option<i64>,
    ) -> Result<crate::protocol::frame::lock::Lock, ClientError> {
        let ttl_ms = ttl.as_millis() as u64;
        let acquire = AcquireLock { reference: None, key: key.to_owned(), ttl_ms, fence };
        match self.ask(ClientFrame::Acquire(acquire)).await? {
            ServerFrame::Lock(lock) => Ok(lock),
            _ => Err(strange()),
        }
    }
}

async fn renew(
    client: Client,
    key: String,
    fence: i64,
    ttl: Duration,
    mut held_until: Instant,
    is_lost: watch::Sender<bool>,
) {
    let mut wait = ttl / RENEW_AT;
    loop {
        sleep(wait).await;
        let left = held_until.saturating_duration_since(Instant::now() + ttl / MARGIN);
        let asked_at = Instant::now();
        match timeout(left, client.hold(&key, ttl, Some(fence))).await {
            Ok(Ok(lock)) if lock.held => {
                held_until = asked_at + ttl;
                wait = ttl / RENEW_AT;
            }
            // Away or too slow: try again as long as there is time.
            Ok(Err(e)) if e.is_retryable() && !left.is_zero() => wait = RENEW_AGAIN,
            _ => {
                is_lost.send_replace(true);
                return;
            }
        }
    }
}

impl Lock {
    /// A number that grows with each holder: a write that carries it can be told from a late write of an
    /// earlier holder.
    pub fn fence(&self) -> i64 {
        self.fence
    }

    /// How much of the lock's time is left when [`lost`](Self::lost) returns because the broker is away.
    pub fn margin(&self) -> Duration {
        self.ttl / MARGIN
    }

    /// Returns when another agent may get the lock: it is lost, or could not be renewed and ends after
    /// [`margin`](Self::margin). A process that goes on with the task then does it beside another.
    pub async fn lost(&self) {
        // An error means that the renewing panicked: then nobody renews.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }

    /// Gives the lock back, so that others may do the task.
    ///
    /// # Errors
    /// See [`ClientError`]; `rejected` if the lock was lost.
    pub async fn release(self) -> Result<(), ClientError> {
        self.end(false).await
    }

    /// Marks the task as done: nobody gets the lock any more, until retention forgets it.
    ///
    /// # Errors
    /// See [`ClientError`]; `rejected` if the lock was lost: then another agent does the task too, or did.
    pub async fn done(self) -> Result<(), ClientError> {
        self.end(true).await
    }

    async fn end(self, done: bool) -> Result<(), ClientError> {
        let release = ReleaseLock { reference: None, key: self.key.clone(), fence: self.fence, done };
        match self.client.ask(ClientFrame::Release(release)).await? {
            ServerFrame::Released(_) => Ok(()),
            _ => Err(strange()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}
