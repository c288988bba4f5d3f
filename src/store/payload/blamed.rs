//! Messages at which the server fails in the middle of a statement that reads many, whatever it is asked for of them: a damaged
//! page, a policy of row level security that raises. The statements leave these out once they are known.

use std::collections::HashMap;
use std::sync::Arc;

use std::time::Duration;

use tokio::time::Instant;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{NAMES_BYTES_MAX, Wary, is_of_the_row, may_be_a_row};
use crate::store::StoreError;
use crate::store::cell::Cells;
use crate::store::connection::{Connection, Target};
use crate::store::cut_off::{Losses, halves};
use crate::store::error::Fault;
use crate::store::sql::queries;
use postbell_engine::inbox::Unfit;

/// So many are known at once; with more, those that are known are dead letters first.
pub(super) const BLAMED_MAX: usize = 10_000;
/// How long the names and sizes of a group of messages may take to be read, during a search: a thousand times what they take.
const GROUP_WAIT: Duration = Duration::from_millis(150);
/// How long those of one message may take.
const CHANCE_WAIT: Duration = Duration::from_millis(700);
/// A search ends then. The messages that it found are left out from now on, and another search finds more.
const SEARCH_WAIT: Duration = Duration::from_secs(3);
/// The fault of a message at which the server process ends.
const ENDED: &str = "the server process ended while it was read: look for an extension that crashes, or a policy's function that ends its session";
/// Where so many failed, and none can be read, it is no message's fault.
const FRUITLESS_MAX: usize = 32;

/// The fault of such messages.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Blamed(HashMap<Uuid, Arc<str>>);

impl Blamed {
    pub(super) fn of(known: &HashMap<Uuid, (Instant, Arc<str>)>) -> Self {
        Self(known.iter().map(|(id, (_, why))| (*id, why.clone())).collect())
    }

    /// For a statement, which reads nothing of them.
    pub(in crate::store) fn ids(&self) -> Vec<Uuid> {
        self.0.keys().copied().collect()
    }

    /// Why the message of this row was not read, if it is one of them.
    ///
    /// # Errors
    /// The row has no message's id.
    pub(in crate::store) fn unfit(&self, row: &Row) -> Result<Option<Unfit>, StoreError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let why = self.0.get(&row.cell("message_id")?);
        Ok(why.map(|why| Unfit::Unreadable(why.to_string())))
    }
}

/// Looks among these for the messages that cannot be read, or not in time, and remembers them. The search has connections of its own,
/// since the server process may end at a message.
///
/// # Errors
/// See [`StoreError`]: the database did not answer, or failed for another reason.
pub(in crate::store) async fn find(
    target: &Target,
    wary: &Wary,
    messages: &[Uuid],
) -> Result<(), StoreError> {
    Search { target, wary, connection: None, losses: Losses::new(Instant::now()) }.run(messages).await
}

struct Search<'a> {
    target: &'a Target,
    wary: &'a Wary,
    connection: Option<Connection>,
    losses: Losses,
}

impl Search<'_> {
    async fn run(mut self, messages: &[Uuid]) -> Result<(), StoreError> {
        let until = Instant::now() + SEARCH_WAIT;
        let mut groups = vec![messages];
        let mut suspects: Vec<(Uuid, StoreError)> = Vec::new();
        let mut is_any_read = false;
        while let Some(group) = groups.pop() {
            match (self.read(group, GROUP_WAIT).await, group) {
                (Ok(is_read), _) => is_any_read |= is_read,
                (Err(e), [message]) if is_of_the_row(&e) && !e.is_slow() => self.wary.blame(*message, &e),
                (Err(e), [message]) if may_be_a_row(&e) || e.is_cut_off() => suspects.push((*message, e)),
                (Err(e), [_, _, ..]) if may_be_a_row(&e) || e.is_cut_off() => {
                    groups.extend(halves(group));
                }
                (Err(e), _) => return Err(e),
            }
            // An error that a user's function raises may be about the row or about anything, and so may slowness or a process that
            // ends: another row that can be read tells. A message that is alone holds nobody up meanwhile.
            if is_any_read {
                for (message, e) in std::mem::take(&mut suspects) {
                    self.judge(message, e).await?;
                }
            }
            let now = Instant::now();
            if suspects.len() >= FRUITLESS_MAX || now >= until || self.losses.are_too_many(now) {
                return Ok(());
            }
        }
        self.compare(suspects).await
    }

    /// Judges messages of which no neighbour could be read. Other messages tell, if some wait. If none does, a statement that finds no
    /// message tells whether the server answers: then one at which it does not is to blame. An error that a user's function
    /// raises may be about every message, so nobody is blamed for one before another message is there.
    async fn compare(&mut self, suspects: Vec<(Uuid, StoreError)>) -> Result<(), StoreError> {
        if suspects.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = suspects.iter().map(|(message, _)| *message).collect();
        let others: Vec<Uuid> =
            self.open().await?.query_one(queries::UNREADABLE_OTHERS, &[&ids]).await?.cell("messages")?;
        let mut is_any_read = false;
        for other in &others {
            is_any_read =
                is_any_read || self.read(&[*other], CHANCE_WAIT).await.is_ok_and(|is_there| is_there);
        }
        for (message, e) in suspects {
            let tells =
                is_any_read || ((e.is_slow() || e.is_cut_off()) && self.read(&[], CHANCE_WAIT).await.is_ok());
            if tells {
                self.judge(message, e).await?;
            }
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<&Connection, StoreError> {
        let open = match self.connection.take().filter(|open| !open.is_closed()) {
            Some(open) => open,
            None => Connection::open(self.target).await?,
        };
        Ok(self.connection.insert(open))
    }

    /// Reads the names and sizes of these messages. Returns whether any of them is there.
    async fn read(&mut self, group: &[Uuid], wait: Duration) -> Result<bool, StoreError> {
        let connection = self.open().await?;
        connection.be_hasty(wait).await?;
        let read = connection.query_one(queries::UNREADABLE, &[&group, &NAMES_BYTES_MAX]).await;
        if read.as_ref().is_err_and(StoreError::is_cut_off) {
            self.losses.add(Instant::now());
            self.connection = None;
        }
        Ok(read?.cell::<_, Option<i64>>(0)?.is_some())
    }

    /// Blames a message while others can be read. One that was slow, or at which the connection was lost, has another chance: the
    /// server may have been busy, or an operator ended the session.
    async fn judge(&mut self, message: Uuid, first: StoreError) -> Result<(), StoreError> {
        if first.is_slow() || first.is_cut_off() {
            match self.read(&[message], CHANCE_WAIT).await {
                Ok(_) => return Ok(()),
                Err(e) if e.is_cut_off() => {
                    self.wary.blame(message, &StoreError::refused(ENDED));
                    return Ok(());
                }
                Err(e) if !may_be_a_row(&e) => return Err(e),
                Err(_) => {}
            }
        }
        self.wary.blame(message, &first);
        Ok(())
    }
}

/// Whether the server fails on something of the user's: a row may be to blame, or the tables as they are.
pub(super) fn is_of_the_tables(error: &StoreError) -> bool {
    error.fault() == Fault::Refused
}
