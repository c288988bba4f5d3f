//! Dead letters of the agent's own inbox; with the role `orchestrator`, of any inbox.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::driver::Order;
use super::{Client, ClientError, SEND_WAIT};
use crate::protocol::frame::dead::{Chosen, Dead, DeadLetters, Done, Refused};
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

/// The fate of the dead letters that were to be redriven or purged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Administered {
    /// How many were redriven or purged.
    pub count: u64,
    /// The letters of the chosen inbox that the table of messages refused. The refusal of letters that were chosen by id is an
    /// error.
    pub refused: Option<Refused>,
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

    /// Makes dead letters ready again, with all their attempts; returns how many, and what was refused.
    ///
    /// # Errors
    /// See [`ClientError`]. Many go in several transactions, and those before the error stay committed.
    pub async fn redrive(&self, which: Which<'_>) -> Result<Administered, ClientError> {
        self.settle_dead(which, ClientFrame::Redrive).await
    }

    /// Deletes dead letters; returns how many, and what was refused.
    ///
    /// # Errors
    /// See [`redrive`](Self::redrive).
    pub async fn purge(&self, which: Which<'_>) -> Result<Administered, ClientError> {
        self.settle_dead(which, ClientFrame::Purge).await
    }

    async fn settle_dead(
        &self,
        which: Which<'_>,
        frame: fn(Chosen) -> ClientFrame,
    ) -> Result<Administered, ClientError> {
        let mut all = Administered::default();
        match which {
            Which::Ids(ids) => {
                for ids in ids.chunks(DEAD_IDS_MAX) {
                    all.add(self.some(frame(Chosen { ids: ids.to_vec(), ..Chosen::default() })).await?);
                }
            }
            Which::Inbox(inbox) => {
                let mut after = None;
                loop {
                    let chosen = Chosen { inbox: Some(inbox.to_owned()), after, ..Chosen::default() };
                    let done = self.some(frame(chosen)).await?;
                    // Each request begins after the last letter of the one before: a letter that fails again at
                    // once is not redriven twice.
                    after = done.last.or(after);
                    let more = done.more;
                    all.add(done);
                    if !more {
                        break;
                    }
                }
            }
        }
        Ok(all)
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

impl Administered {
    fn add(&mut self, done: Done) {
        self.count += done.count;
        match (&mut self.refused, done.refused) {
            (Some(refused), Some(more)) => refused.count += more.count,
            (refused, more) => *refused = refused.take().or(more),
        }
    }
}

pub(super) fn strange() -> ClientError {
    ClientError::Protocol("it answered with something else than was asked".to_owned())
}
