//! Dead letters of the agent's own inbox; with the role `orchestrator`, of any inbox.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::driver::Order;
use super::{Client, ClientError, SEND_WAIT};
use crate::protocol::frame::dead::{Chosen, Dead, DeadLetters, Done};
use crate::protocol::limits::DEAD_IDS_MAX;
use crate::protocol::{ClientFrame, ErrorCode, ServerFrame};

/// The wait if the broker does not say when to come again.
const SLOW_DOWN_WAIT: Duration = Duration::from_millis(50);

/// The dead letters to redrive or to purge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which<'a> {
    /// These, by their [`DeadLetter::id`](super::DeadLetter::id). Ids of an inbox that this agent may not
    /// administer count as ids that do not exist.
    Ids(&'a [i64]),
    /// All of this inbox that are dead when their turn comes.
    Inbox(&'a str),
}

impl Client {
    /// A page of dead letters of this inbox, or of the agent's own, the oldest first. `after` is the id of the
    /// last letter on the page before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn dead_letters(
        &self,
        inbox: Option<&str>,
        after: Option<i64>,
    ) -> Result<DeadLetters, ClientError> {
        let dead = Dead { inbox: inbox.map(str::to_owned), after, ..Dead::default() };
        match self.ask(ClientFrame::Dead(dead)).await? {
            ServerFrame::DeadLetters(page) => Ok(page),
            _ => Err(strange()),
        }
    }

    /// Makes dead letters ready again, with all their attempts; returns how many.
    ///
    /// # Errors
    /// See [`ClientError`]. Many go in several transactions, and those before the error stay committed.
    pub async fn redrive(&self, which: Which<'_>) -> Result<u64, ClientError> {
        self.settle_dead(which, ClientFrame::Redrive).await
    }

    /// Deletes dead letters; returns how many.
    ///
    /// # Errors
    /// See [`redrive`](Self::redrive).
    pub async fn purge(&self, which: Which<'_>) -> Result<u64, ClientError> {
        self.settle_dead(which, ClientFrame::Purge).await
    }

    async fn settle_dead(
        &self,
        which: Which<'_>,
        frame: fn(Chosen) -> ClientFrame,
    ) -> Result<u64, ClientError> {
        let mut count = 0;
        match which {
            Which::Ids(ids) => {
                for ids in ids.chunks(DEAD_IDS_MAX) {
                    count += self.some(frame(Chosen { ids: ids.to_vec(), ..Chosen::default() })).await?.count;
                }
            }
            Which::Inbox(inbox) => {
                let mut after = None;
                loop {
                    let chosen = Chosen { inbox: Some(inbox.to_owned()), after, ..Chosen::default() };
                    let done = self.some(frame(chosen)).await?;
                    count += done.count;
                    // Each request begins after the last letter of the one before: a letter that fails again at
                    // once is not redriven twice.
                    after = done.last.or(after);
                    if !done.more {
                        break;
                    }
                }
            }
        }
        Ok(count)
    }

    async fn some(&self, frame: ClientFrame) -> Result<Done, ClientError> {
        match self.ask(frame).await? {
            ServerFrame::Redriven(done) | ServerFrame::Purged(done) => Ok(done),
            _ => Err(strange()),
        }
    }

    /// Asks again while the broker answers `slow_down`, as when another request of the agent is under way.
    pub(super) async fn ask(&self, frame: ClientFrame) -> Result<ServerFrame, ClientError> {
        let asking = async {
            loop {
                match self.ask_once(frame.clone()).await {
                    Err(ClientError::Refused { code: ErrorCode::SlowDown, retry, .. }) => {
                        sleep(retry.unwrap_or(SLOW_DOWN_WAIT)).await;
                    }
                    answer => return answer,
                }
            }
        };
        timeout(SEND_WAIT, asking).await.unwrap_or(Err(ClientError::Timeout(SEND_WAIT)))
    }

    async fn ask_once(&self, frame: ClientFrame) -> Result<ServerFrame, ClientError> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(Order::Ask(Box::new(frame), answer)).await.map_err(|_| self.why_closed())?;
        answered.await.map_err(|_| self.why_closed())?
    }
}

pub(super) fn strange() -> ClientError {
    ClientError::Protocol("it answered with something else than was asked".to_owned())
}
