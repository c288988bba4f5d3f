//! Publishing: messages that agents send through the broker, many by one insert.

mod columns;
mod plain;

use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::time::Instant;

use tokio::time::timeout;
use uuid::Uuid;

use super::blame;
use super::cell::Cells;
use super::connection::{Connection, Target, WriteLimit};
use super::error::StoreError;
use super::pool::POOL_WAIT;
use crate::store::sql::queries;
use columns::Columns;
use postbell_client::protocol::frame::Send;

/// feature_not_supported: a rule of the table does not go with the insert, which has ON CONFLICT. generated_always: the
/// table computes a column that the insert writes.
const ONLY_PLAIN: [&str; 2] = ["0A000", "428C9"];
/// For how long the insert is not tried after a table refused it that takes the plain one.
const PLAIN_FOR: Duration = Duration::from_secs(30);

/// A message to insert.
#[derive(Debug)]
pub(crate) struct NewMessage {
    /// The message's id, unless an earlier message with its dedupe key is stored.
    pub id: Uuid,
    /// The agent that sends it.
    pub from: std::sync::Arc<str>,
    /// The message as the agent sent it.
    pub send: Send,
}

/// How long an insert may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InsertPatience {
    /// For one lock, such as that of a dedupe key whose transaction is not over.
    pub lock: Duration,
    /// For the whole statement before the COMMIT, including its triggers. Deferred triggers have the same time once
    /// more.
    pub statement: Duration,
}

/// The reason why an insert has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitReason {
    /// Another transaction holds a lock.
    Lock,
    /// A trigger of the table, or the server, is slow.
    Slow,
    /// A trigger says that the server is read only, which cost the connection.
    ReadOnly,
}

impl WaitReason {
    /// The words for a log.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "a lock",
            Self::Slow => "a slow trigger or server",
            Self::ReadOnly => "a trigger that says the server is read only",
        }
    }
}

/// The fate of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stored {
    /// Stored, and known under this id: its own, or that of the first with the same sender and dedupe key.
    As(Uuid),
    /// Not stored: the first with its dedupe key was removed at this moment, or it is as below.
    FirstIsGone,
    /// Not stored: a trigger or a rule of the user's keeps it out without an error.
    KeptOut,
}

/// The finding about an insert whose connection was lost.
#[derive(Debug)]
pub(crate) enum Looked {
    /// The server is a standby: it takes no insert.
    Standby,
    /// These are stored: only the COMMIT's answer was lost.
    Stored(HashSet<Uuid>),
}

/// Writes messages, on a connection of its own: its patience is not that of others. Opened when it is needed.
pub(crate) struct Writer {
    target: Target,
    open: Option<Open>,
    /// Until then the plain insert is the first to be tried.
    plain_until: Option<Instant>,
}

struct Open {
    connection: Connection,
    patience: InsertPatience,
}

impl Writer {
    /// A writer for this database, without a connection yet.
    pub(crate) fn new(target: Target) -> Self {
        Self { target, open: None, plain_until: None }
    }

    /// Closes the connection; another one is opened for the next insert.
    pub(crate) fn rest(&mut self) {
        self.open = None;
    }

    /// Whether the connection of the last insert goes on. If so, the insert's error was about its rows, or will pass.
    pub(crate) fn is_open(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.connection.is_closed())
    }

    /// Whether a send may be to blame for an insert's error that says it will pass; see [`blame`].
    pub(crate) async fn may_be_a_send(&mut self, error: &StoreError, patience: InsertPatience) -> bool {
        match self.open(patience).await {
            Ok(open) => blame::begins_on(&open.connection, error).await,
            Err(_) => false,
        }
    }

    /// Inserts a batch in one transaction and says, in the same order, what became of each. When this returns those that are
    /// stored are committed.
    ///
    /// # Errors
    /// See [`StoreError`] and [`held`]. After an error no message is inserted, or nobody knows whether all are.
    pub(crate) async fn publish(
        &mut self,
        batch: &[&NewMessage],
        patience: InsertPatience,
    ) -> Result<Vec<Stored>, StoreError> {
        match self.publish_once(batch, patience).await {
            // The connection is closed for that; another one is as it should be.
            Err(e) if e.is_of_plan() || e.is_of_settings() => self.publish_once(batch, patience).await,
            published => published,
        }
    }

    async fn publish_once(
        &mut self,
        batch: &[&NewMessage],
        patience: InsertPatience,
    ) -> Result<Vec<Stored>, StoreError> {
        let is_plain = self.plain_until.is_some_and(|until| Instant::now() < until);
        let open = self.open(patience).await?;
        let refused = match is_plain {
            true => None,
            false => match insert(&open.connection, batch).await {
                Err(refused) if needs_plain(&refused) => Some(refused),
                Err(error) => return Err(error),
                Ok(None) => return Ok(batch.iter().map(|o| Stored::As(o.id)).collect()),
                Ok(Some(new)) => return Ok(self.stored(batch, &new, patience).await),
            },
        };
        let published = plain::publish(&open.connection, batch).await;
        match (published, refused) {
            // The first error names the column of the table; this one would name Postbell's function.
            (Err(again), Some(refused)) if needs_plain(&again) => Err(refused),
            (Ok(stored), Some(_)) => {
                tracing::warn!(
                    "agent_messages has a rule or computes a column, so what agents send is inserted more slowly: \
                     `postbell doctor` names the rule or the column"
                );
                self.plain_until = Some(Instant::now() + PLAIN_FOR);
                Ok(stored)
            }
            (published, _) => published,
        }
    }

    /// Looks on a new connection what became of an insert whose connection was lost.
    ///
    /// # Errors
    /// See [`StoreError`]: the server cannot be reached.
    pub(crate) async fn look(
        &mut self,
        batch: &[&NewMessage],
        patience: InsertPatience,
    ) -> Result<Looked, StoreError> {
        let ids: Vec<Uuid> = batch.iter().map(|o| o.id).collect();
        let row = self.open(patience).await?.connection.query_one(queries::PUBLISH_DOUBT, &[&ids]).await?;
        match row.cell("is_standby")? {
            true => Ok(Looked::Standby),
            false => Ok(Looked::Stored(row.cell::<_, Vec<Uuid>>("stored")?.into_iter().collect())),
        }
    }

    /// Says what became of a batch of which these are new.
    async fn stored(
        &mut self,
        batch: &[&NewMessage],
        new: &HashSet<Uuid>,
        patience: InsertPatience,
    ) -> Vec<Stored> {
        let is_known = |o: &&NewMessage| !new.contains(&o.id) && o.send.dedupe_key.is_some();
        let known: Vec<&NewMessage> = batch.iter().copied().filter(is_known).collect();
        let firsts = match known.is_empty() {
            true => Ok(HashMap::new()),
            false => self.firsts(&known, patience).await,
        };
        // The new ones are committed, whatever becomes of the question after the others.
        let firsts = firsts.unwrap_or_else(|error| {
            tracing::warn!(%error, "the first messages of some dedupe keys could not be read");
            HashMap::new()
        });
        let stored = |o: &&NewMessage| match firsts.get(&o.id) {
            _ if new.contains(&o.id) => Stored::As(o.id),
            Some(first) => Stored::As(*first),
            None if o.send.dedupe_key.is_some() => Stored::FirstIsGone,
            None => Stored::KeptOut,
        };
        batch.iter().map(stored).collect()
    }

    /// See [`firsts`]. The connection may have been given up after the insert.
    async fn firsts(
        &mut self,
        known: &[&NewMessage],
        patience: InsertPatience,
    ) -> Result<HashMap<Uuid, Uuid>, StoreError> {
        firsts(&self.open(patience).await?.connection, known).await
    }

    async fn open(&mut self, patience: InsertPatience) -> Result<&mut Open, StoreError> {
        let (connection, known) = match self.open.take() {
            Some(open) if open.connection.is_good().await => (open.connection, Some(open.patience)),
            _ => {
                let sentence = format!("no connection was made in {} s", POOL_WAIT.as_secs());
                let opened = timeout(POOL_WAIT, Connection::open(&self.target)).await;
                (opened.unwrap_or_else(|_| Err(StoreError::unavailable(sentence)))?, None)
            }
        };
        if known != Some(patience) {
            let (lock, statement) = (patience.lock.as_millis(), patience.statement.as_millis());
            let set = format!("set lock_timeout = {lock}; set statement_timeout = {statement}");
            connection.set(&set).await?;
        }
        Ok(self.open.insert(Open { connection, patience }))
    }
}

/// Whether the table may take the plain insert, although it refused the usual one.
fn needs_plain(refused: &StoreError) -> bool {
    refused.sqlstate().is_some_and(|state| ONLY_PLAIN.contains(&state))
}

/// Returns why an insert had to wait, if that is why it failed. Nothing of the insert is then stored, and the same
/// insert may succeed later.
pub(crate) fn held(error: &StoreError) -> Option<WaitReason> {
    match error.sqlstate()? {
        // lock_not_available, deadlock_detected, serialization_failure
        "55P03" | "40P01" | "40001" => Some(WaitReason::Lock),
        // query_canceled
        "57014" => Some(WaitReason::Slow),
        _ => None,
    }
}

/// Inserts a batch. Returns the ids of those that are stored, `None` for all.
async fn insert(connection: &Connection, batch: &[&NewMessage]) -> Result<Option<HashSet<Uuid>>, StoreError> {
    let columns = Columns::of(batch);
    let rows = connection.write(WriteLimit::OfTheConnection, queries::PUBLISH, &columns.params()).await?;
    let new = (rows.len() != batch.len()).then(|| rows.iter().map(|row| row.cell(0)).collect());
    new.transpose()
}

/// The id of the first stored message with the dedupe key of each of these, by the id of the new one.
async fn firsts(connection: &Connection, known: &[&NewMessage]) -> Result<HashMap<Uuid, Uuid>, StoreError> {
    let senders: Vec<&str> = known.iter().map(|o| &*o.from).collect();
    let keys: Vec<Option<&str>> = known.iter().map(|o| o.send.dedupe_key.as_deref()).collect();
    let rows = connection.query(queries::PUBLISH_FIRST, &[&senders, &keys]).await?;
    let mut firsts = HashMap::new();
    for row in &rows {
        let place = row.count("n")? as usize;
        if let Some(outgoing) = place.checked_sub(1).and_then(|at| known.get(at)) {
            firsts.insert(outgoing.id, row.cell("message_id")?);
        }
    }
    Ok(firsts)
}
