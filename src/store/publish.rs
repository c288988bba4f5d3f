//! Publishing: messages that agents send through the broker, many by one insert.

mod columns;
mod ruled;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use futures_util::future::join3;
use tokio::time::timeout;
use tokio_postgres::Row;
use uuid::Uuid;

use super::cell::Cells;
use super::connection::{Connection, Params, Target};
use super::error::StoreError;
use super::pool::POOL_WAIT;
use columns::Columns;
use postbell_client::protocol::frame::Send;

const PUBLISH: &str = include_str!("../../sql/queries/publish.sql");
/// The time of a statement does not count what is deferred to the COMMIT, such as a user's constraint trigger. So that is done
/// before, in a statement of its own.
const END: &str = "set constraints all immediate; commit";
const FIRST: &str = include_str!("../../sql/queries/publish_first.sql");
/// feature_not_supported: a rule of the table does not go with the insert, which has ON CONFLICT.
const NOT_WITH_A_RULE: &str = "0A000";
/// For how long the insert is not tried after it met a rule that the other way gets along with.
const RULED_FOR: Duration = Duration::from_secs(30);

/// A message to insert.
#[derive(Debug)]
pub struct Outgoing {
    /// Its id, unless an earlier message with its dedupe key is stored.
    pub id: Uuid,
    /// The agent that sends it.
    pub from: std::sync::Arc<str>,
    /// The message as the agent sent it.
    pub send: Send,
}

/// How long an insert may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For one lock, such as that of a dedupe key whose transaction is not over.
    pub lock: Duration,
    /// For the whole statement before the COMMIT, including its triggers. Deferred triggers have the same time once
    /// more.
    pub statement: Duration,
}

/// The reason why an insert has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Another transaction holds a lock.
    Lock,
    /// A trigger of the table, or the server, is slow.
    Slow,
}

impl Held {
    /// The words for a log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lock => "a lock",
            Self::Slow => "a slow trigger or server",
        }
    }
}

/// The fate of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is known under this id: its own, or that of the first with the same sender and dedupe key.
    As(Uuid),
    /// It is not stored: the first with its dedupe key was removed at this moment, or it is as below.
    FirstIsGone,
    /// It is not stored: a trigger or a rule of the user's keeps it out without an error.
    KeptOut,
}

/// Writes messages, on a connection of its own: its patience is not that of others. Opened when it is needed.
pub struct Writer {
    target: Target,
    open: Option<Open>,
    /// Until then the table counts as one with a rule.
    ruled_until: Option<Instant>,
}

struct Open {
    connection: Connection,
    patience: Patience,
    /// Whether the insert is prepared on the connection.
    is_prepared: bool,
}

impl Writer {
    /// A writer for this database, without a connection yet.
    pub fn new(target: Target) -> Self {
        Self { target, open: None, ruled_until: None }
    }

    /// Closes the connection; another one is opened for the next insert.
    pub fn rest(&mut self) {
        self.open = None;
    }

    /// Whether the connection of the last insert goes on. If so, the insert's error was about its rows, or will pass.
    pub fn is_open(&self) -> bool {
        self.open.as_ref().is_some_and(|open| !open.connection.is_closed())
    }

    /// Inserts a batch in one transaction and says, in the same order, what became of each. When this returns those that are
    /// stored are committed.
    ///
    /// # Errors
    /// See [`StoreError`] and [`held`]. After an error no message is inserted, or nobody knows whether all are.
    pub async fn publish(
        &mut self,
        batch: &[&Outgoing],
        patience: Patience,
    ) -> Result<Vec<Stored>, StoreError> {
        let is_ruled = self.ruled_until.is_some_and(|until| Instant::now() < until);
        let open = self.open(patience).await?;
        if !is_ruled {
            let published = publish(open, batch).await;
            open.is_prepared = published.is_ok();
            let is_of_a_rule = |e: &StoreError| e.sqlstate() == Some(NOT_WITH_A_RULE);
            if !published.as_ref().is_err_and(is_of_a_rule) {
                return published;
            }
        }
        let published = ruled::publish(&open.connection, batch).await;
        if published.is_ok() && !is_ruled {
            tracing::warn!(
                "agent_messages has a rule, so what agents send is inserted without ON CONFLICT, and slower: `postbell doctor` \
                 names the rule"
            );
            self.ruled_until = Some(Instant::now() + RULED_FOR);
        }
        published
    }

    async fn open(&mut self, patience: Patience) -> Result<&mut Open, StoreError> {
        let usable = self.open.take().filter(|open| !open.connection.is_closed());
        let (connection, known, is_prepared) = match usable {
            Some(open) => (open.connection, Some(open.patience), open.is_prepared),
            None => {
                let sentence = format!("no connection was made in {} s", POOL_WAIT.as_secs());
                let opened = timeout(POOL_WAIT, Connection::open(&self.target)).await;
                (opened.unwrap_or_else(|_| Err(StoreError::unavailable(sentence)))?, None, false)
            }
        };
        if known != Some(patience) {
            let (lock, statement) = (patience.lock.as_millis(), patience.statement.as_millis());
            let set = format!("set lock_timeout = {lock}; set statement_timeout = {statement}");
            connection.batch(&set).await?;
        }
        Ok(self.open.insert(Open { connection, patience, is_prepared }))
    }
}

/// Returns why an insert had to wait, if that is why it failed. Nothing of the insert is then stored, and the same
/// insert may succeed later.
pub fn held(error: &StoreError) -> Option<Held> {
    match error.sqlstate()? {
        // lock_not_available, deadlock_detected, serialization_failure
        "55P03" | "40P01" | "40001" => Some(Held::Lock),
        // query_canceled
        "57014" => Some(Held::Slow),
        _ => None,
    }
}

/// Inserts in a transaction of three messages. If the insert is prepared, the messages are written at once, in this
/// order, and cost one round trip. If not, preparing would put the insert behind the others, so each is awaited.
async fn insert(open: &Open, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
    let connection = &open.connection;
    let begin = connection.batch("begin");
    let (insert, end) = (connection.query(PUBLISH, params), connection.batch(END));
    let (began, rows, ended) = match open.is_prepared {
        true => join3(begin, insert, end).await,
        false => (begin.await, insert.await, end.await),
    };
    let inserted = began.and(rows).and_then(|rows| ended.map(|()| rows));
    if inserted.is_err() && !connection.is_closed() {
        connection.batch("rollback").await?;
    }
    inserted
}

async fn publish(open: &Open, batch: &[&Outgoing]) -> Result<Vec<Stored>, StoreError> {
    let columns = Columns::of(batch);
    let rows = insert(open, &columns.params()).await?;
    if rows.len() == batch.len() {
        return Ok(columns.ids.into_iter().map(Stored::As).collect());
    }
    let new: HashSet<Uuid> = rows.iter().map(|row| row.cell(0)).collect::<Result<_, _>>()?;
    let known: Vec<&Outgoing> =
        batch.iter().copied().filter(|o| !new.contains(&o.id) && o.send.dedupe_key.is_some()).collect();
    // The new ones are committed, whatever becomes of the question after the others.
    let firsts = firsts(&open.connection, &known).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the first messages of some dedupe keys could not be read");
        HashMap::new()
    });
    let stored = |o: &&Outgoing| match firsts.get(&o.id) {
        _ if new.contains(&o.id) => Stored::As(o.id),
        Some(first) => Stored::As(*first),
        None if o.send.dedupe_key.is_some() => Stored::FirstIsGone,
        None => Stored::KeptOut,
    };
    Ok(batch.iter().map(stored).collect())
}

/// The id of the first stored message with the dedupe key of each of these, by the id of the new one.
async fn firsts(connection: &Connection, known: &[&Outgoing]) -> Result<HashMap<Uuid, Uuid>, StoreError> {
    let senders: Vec<&str> = known.iter().map(|o| &*o.from).collect();
    let keys: Vec<Option<&str>> = known.iter().map(|o| o.send.dedupe_key.as_deref()).collect();
    let rows = connection.query(FIRST, &[&senders, &keys]).await?;
    let mut firsts = HashMap::new();
    for row in &rows {
        let place = row.count("n")? as usize;
        if let Some(outgoing) = place.checked_sub(1).and_then(|at| known.get(at)) {
            firsts.insert(outgoing.id, row.cell("message_id")?);
        }
    }
    Ok(firsts)
}
