//! One connection: opened as the URL says, set up, with each statement prepared once.

mod kept;
mod whole;

pub(crate) use whole::Unanswered;
pub(super) use whole::WriteLimit;

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::TryStreamExt;
use futures_util::future::poll_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{
    AsyncMessage, Client, NoTls, Notification, Row, RowStream, SimpleQueryMessage, SimpleQueryRow, Statement,
};

use super::error::StoreError;
use super::tls;
use super::url::{DatabaseUrl, SslMode};
use crate::store::sql::queries;
use kept::Kept;

/// The server cancels a statement that runs longer. The broker's own statements should take less than a second.
pub(crate) const STATEMENT_WAIT: Duration = Duration::from_secs(30);
/// How long a running broker waits for an answer before the connection counts as dead. A server may vanish without a
/// word while a proxy acknowledges every probe, so that nothing else would ever tell. Every statement is written so
/// that a second run, after a first one that was carried out unnoticed, changes nothing.
pub(crate) const ANSWER_WAIT: Duration = Duration::from_secs(4);
/// How long opening a connection may take, including its set-up.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// SQLSTATEs after which only another connection helps: read only (a standby behind the same address), shut down by
/// its operator, ended after a crash, not up yet.
const MOVED: &[&str] = &[READ_ONLY, "57P01", "57P02", "57P03"];
/// The only one of them that a server means while it keeps the session.
const READ_ONLY: &str = "25006";

const _: () = assert!(ANSWER_WAIT.as_millis() < STATEMENT_WAIT.as_millis());

/// The database to which connections are opened, and how.
#[derive(Clone, Debug)]
pub struct Target {
    /// The database, and who connects to it.
    pub url: Arc<DatabaseUrl>,
    /// The schema of `agent_messages` and `agent_registry`.
    pub schema: Arc<str>,
    /// How long an answer may take; `None` waits for ever, as a migration needs.
    pub answer_wait: Option<Duration>,
    /// How its connections plan, which depends on what they are for.
    pub planner: Planner,
    /// Whether a write was not answered lately.
    pub unanswered: Unanswered,
}

/// How the server plans the statements of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planner {
    /// Each statement walks one index, whatever the tables held when the statement was planned.
    Delivering,
    /// As the server likes, for statements that count and sort.
    LookingOn,
}

impl Planner {
    fn settings(self) -> &'static str {
        match self {
            Self::Delivering => queries::SESSION_PLANNER,
            Self::LookingOn => queries::SESSION_LOOKING_ON,
        }
    }
}

impl Target {
    /// A database, and the schema of the user's tables in it. Answers may take any time.
    pub fn new(url: DatabaseUrl, schema: &str) -> Self {
        let (url, schema, unanswered) = (Arc::new(url), schema.into(), Unanswered::default());
        Self { url, schema, answer_wait: None, planner: Planner::Delivering, unanswered }
    }

    /// The same target for a broker, which gives up a connection that does not answer within `ANSWER_WAIT`.
    pub fn impatient(self) -> Self {
        Self { answer_wait: Some(ANSWER_WAIT), ..self }
    }

    /// How long the server lets a statement run. The server gives up before the broker does: then the connection can be
    /// used again, no statement is left behind that nobody waits for, and the error says that the statement took too long.
    fn statement_wait(&self) -> Duration {
        self.answer_wait.map_or(STATEMENT_WAIT, |wait| wait * 9 / 10)
    }

    /// The same target for statements that count and sort.
    pub fn looking_on(self) -> Self {
        Self { planner: Planner::LookingOn, ..self }
    }
}

/// A connection to the database.
pub struct Connection {
    client: Client,
    url: Arc<DatabaseUrl>,
    driver: JoinHandle<()>,
    answer_wait: Option<Duration>,
    unanswered: Unanswered,
    /// Whether an answer did not come in time. The connection is then not used again, although its socket may look
    /// alive.
    given_up: AtomicBool,
    /// The settings as they were made, which a user's trigger may change.
    kept: Mutex<Kept>,
    // Never held across an await: a statement is looked up or inserted, and cloned.
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

/// The parameters of a statement.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Connection {
    /// Opens a connection that ignores notifications.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open(target: &Target) -> Result<Self, StoreError> {
        Self::open_listening(target, |_| {}).await
    }

    /// Opens a connection and calls `heard` for each notification. `heard` runs on the task that reads the socket, so
    /// it must not block.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open_listening(
        target: &Target,
        heard: impl Fn(Notification) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let late = || StoreError::unavailable(format!("no connection was made in {} s", OPEN_WAIT.as_secs()));
        let opened = timeout(OPEN_WAIT, Self::set_up(target, heard)).await.unwrap_or_else(|_| Err(late()));
        opened.map_err(StoreError::of_opening)
    }

    async fn set_up(
        target: &Target,
        heard: impl Fn(Notification) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let config = &target.url.config;
        let (client, driver) = if target.url.ssl_mode() == SslMode::Disable {
            let (client, connection) = config.connect(NoTls).await?;
            (client, tokio::spawn(drive(connection, heard)))
        } else {
            let (client, connection) = config.connect(tls::connector(&target.url)?).await?;
            (client, tokio::spawn(drive(connection, heard)))
        };
        let (answer_wait, given_up) = (target.answer_wait, AtomicBool::new(false));
        let unanswered = target.unanswered.clone();
        let kept = Mutex::new(Kept::new(String::new(), target.statement_wait()));
        let (prepared, url) = (Mutex::default(), target.url.clone());
        let this = Self { client, url, driver, answer_wait, unanswered, given_up, kept, prepared };
        let schema = target.schema.replace('"', "\"\"");
        let setup = format!(
            "{}{}set statement_timeout = {};\nset search_path = \"{schema}\", pg_temp;\nselect pg_is_in_recovery();",
            queries::SESSION,
            target.planner.settings(),
            target.statement_wait().as_millis(),
        );
        let said = this.client.simple_query(&setup).await?;
        if is_yes(&said) {
            return Err(StoreError::unavailable(format!(
                "{} is a standby, which takes no writes: the URL must lead to the primary",
                target.url
            )));
        }
        // Sent as text and not prepared: behind a transaction pooler a failure here would not name the pooler.
        let literal = format!("E'{}'", target.schema.replace('\\', "\\\\").replace('\'', "\\'"));
        this.set(&queries::SESSION_PATH.replace("$1", &literal)).await?;
        Ok(this)
    }

    /// Whether the server or the network ended the connection, or it was given up.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.given_up.load(Ordering::Relaxed)
    }

    /// Waits until the server or the network ends the connection.
    pub async fn closed(&mut self) {
        if !self.driver.is_finished() {
            // A driver that was aborted or panicked has closed the connection, too.
            let _ = (&mut self.driver).await;
        }
    }

    /// Runs a statement of `sql/queries`, prepared at its first use on this connection.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn query(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let statement = self.prepare(sql).await?;
        self.answered(self.client.query(&statement, params)).await
    }

    /// [`query`](Self::query) for a statement that returns exactly one row.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn query_one(&self, sql: &'static str, params: Params<'_>) -> Result<Row, StoreError> {
        let statement = self.prepare(sql).await?;
        self.answered(self.client.query_one(&statement, params)).await
    }

    /// [`query`](Self::query), row by row. The server waits while nobody takes rows.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn query_stream(&self, sql: &'static str, params: Params<'_>) -> Result<RowStream, StoreError> {
        let statement = self.prepare(sql).await?;
        self.answered(self.client.query_raw(&statement, params.to_vec())).await
    }

    /// [`query`](Self::query), calling `each` for each row as it comes. If `each` returns an error, the connection is
    /// given up, because the server would first send all other rows.
    ///
    /// # Errors
    /// See [`StoreError`], and the errors of `each`.
    pub async fn query_each(
        &self,
        sql: &'static str,
        params: Params<'_>,
        mut each: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let statement = self.prepare(sql).await?;
        let read = async {
            let mut rows = pin!(self.client.query_raw(&statement, params.to_vec()).await?);
            while let Some(row) = rows.try_next().await? {
                each(row)?;
            }
            Ok(())
        };
        let done = match self.answer_wait {
            None => read.await,
            Some(wait) => timeout(wait, read).await.unwrap_or_else(|_| Err(late(wait))),
        };
        // After an error of the server no more rows come, so the connection can be kept.
        if done.as_ref().is_err_and(|e: &StoreError| e.sqlstate().is_none()) {
            self.abandon();
        }
        done.map_err(|e| self.without_stale_plan(e))
    }

    /// Runs a statement and returns the number of rows that it changed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn execute(&self, sql: &'static str, params: Params<'_>) -> Result<u64, StoreError> {
        let statement = self.prepare(sql).await?;
        self.answered(self.client.execute(&statement, params)).await
    }

    /// Runs statements without parameters, as one message.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn batch(&self, sql: &str) -> Result<(), StoreError> {
        self.answered(self.client.batch_execute(sql)).await
    }

    /// Lets the server give up each further statement after this time.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(super) async fn be_hasty(&self, wait: Duration) -> Result<(), StoreError> {
        self.batch(&format!("set statement_timeout = {}", wait.as_millis())).await
    }

    /// Waits for an answer, but not longer than `answer_wait`.
    async fn answered<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let answer = match self.answer_wait {
            None => asked.await,
            Some(wait) => match timeout(wait, asked).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.abandon();
                    return Err(late(wait));
                }
            },
        };
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => self.without_stale_plan(error.into()),
        };
        let Some(code) = error.sqlstate() else { return Err(error) };
        // This server is not the primary, or is ending: only another connection can reach the present primary.
        if MOVED.contains(&code) && (code == READ_ONLY || !error.is_answered()) {
            self.give_up();
        }
        Err(error)
    }

    /// Gives the connection up if a statement cannot be carried out as it was prepared: a table that was altered since
    /// would refuse it for as long as the connection lives.
    fn without_stale_plan(&self, error: StoreError) -> StoreError {
        if !error.is_of_plan() {
            return error;
        }
        self.give_up();
        tracing::info!(%error, "a table was altered after a statement was prepared; the connection is replaced");
        StoreError::other_plan()
    }

    /// Ends the connection, whatever the server is about to send.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.driver.abort();
    }

    async fn prepare(&self, sql: &'static str) -> Result<Statement, StoreError> {
        let known = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.answered(self.client.prepare(sql)).await?;
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(prepared.entry(sql).or_insert(statement).clone())
    }
}

fn late(wait: Duration) -> StoreError {
    StoreError::unavailable(format!("the database did not answer in {} s", wait.as_secs_f64()))
}

impl Drop for Connection {
    /// Without this, a connection on a dead network would live until TCP gives up.
    fn drop(&mut self) {
        if !self.client.is_closed() {
            self.driver.abort();
        }
    }
}

/// The last row.
fn last_row(said: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    said.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// Whether the last row is `t`.
fn is_yes(said: &[SimpleQueryMessage]) -> bool {
    last_row(said).and_then(|row| row.get(0)) == Some("t")
}

async fn drive<S, T>(mut connection: tokio_postgres::Connection<S, T>, heard: impl Fn(Notification))
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(n))) => heard(n),
            Some(Ok(_)) => {}
            Some(Err(e)) => {
                tracing::debug!(reason = %StoreError::from(e), "a database connection ended");
                return;
            }
            None => return,
        }
    }
}
