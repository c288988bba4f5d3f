//! Locks: of several processes that could do a task, one does.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::dead::strange;
use super::{Client, ClientError};
use crate::protocol::frame::lock::{Acquire, Release};
use crate::protocol::{ClientFrame, ServerFrame};

/// A lock is held for longer when so much of its time has passed.
const RENEW_AT: u32 = 3;
/// So much of its time is left when a lock that could not be renewed is given up: for whoever works under it to stop.
const MARGIN: u32 = 6;
const _: () = assert!(MARGIN > RENEW_AT);
/// After a renewal that failed.
const RENEW_AGAIN: Duration = Duration::from_millis(200);

/// What became of asking for a lock.
#[derive(Debug)]
pub enum Acquired {
    /// It is ours.
    Held(Lock),
    /// It is not.
    Taken {
        /// Whose it is, or was when the task was done.
        holder: Option<String>,
        /// For how long still, unless the holder says so again.
        left: Option<Duration>,
        /// The task is done: there is nothing left to do.
        is_done: bool,
    },
}

/// A lock that is held, and renewed by itself, until this is dropped; then it ends by its time.
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
    /// Asks for the lock of a task. It is held for `ttl` at a time, a second to an hour, and renewed by itself; if this
    /// process dies, others get it after that.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn lock(&self, key: &str, ttl: Duration) -> Result<Acquired, ClientError> {
        // From before it was asked: on our clock it ends no later than on the server's.
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
        let acquire = Acquire { reference: None, key: key.to_owned(), ttl_ms, fence };
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
            // Away, or too slow: as long as there is time, again.
            Ok(Err(e)) if e.is_retryable() && !left.is_zero() => wait = RENEW_AGAIN,
            _ => {
                is_lost.send_replace(true);
                return;
            }
        }
    }
}

impl Lock {
    /// Grows with each holder: what is written with it can be told from what a holder that is too late still writes.
    pub fn fence(&self) -> i64 {
        self.fence
    }

    /// Of the lock's time so much is left when [`lost`](Self::lost) returns because the broker is away.
    pub fn margin(&self) -> Duration {
        self.ttl / MARGIN
    }

    /// Returns when the lock is not ours any more, or could not be renewed and ends after [`margin`](Self::margin): whoever goes
    /// on with the task then does it beside somebody else.
    pub async fn lost(&self) {
        // The renewing ended by a panic: then nobody renews.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }

    /// Gives it back: others may do the task.
    ///
    /// # Errors
    /// See [`ClientError`]; `rejected` where it was lost.
    pub async fn release(self) -> Result<(), ClientError> {
        self.end(false).await
    }

    /// The task is done: nobody gets the lock any more, until retention forgets it.
    ///
    /// # Errors
    /// See [`ClientError`]; `rejected` where it was lost: then another does it too, or did.
    pub async fn done(self) -> Result<(), ClientError> {
        self.end(true).await
    }

    async fn end(self, done: bool) -> Result<(), ClientError> {
        let release = Release { reference: None, key: self.key.clone(), fence: self.fence, done };
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
