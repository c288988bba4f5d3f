//! One connection: opened as the URL says, set up, with each statement prepared once.

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
    AsyncMessage, Client, NoTls, Notification, Row, RowStream, SimpleQueryMessage, Statement,
};

use super::error::StoreError;
use super::tls;
use super::url::{DatabaseUrl, SslMode};

const SESSION_PATH: &str = include_str!("../../sql/queries/session_path.sql");

/// A statement that runs longer is cancelled by the server: none of the broker's should take a second.
pub const STATEMENT_WAIT: Duration = Duration::from_secs(30);
/// How long a running broker waits for an answer before it takes the connection for dead. The server may be gone
/// without a word, and whatever stands between may acknowledge every probe: then nothing else ever tells. Statements are
/// written so that a second run of one that was carried out all the same changes nothing.
pub const ANSWER_WAIT: Duration = Duration::from_secs(4);
/// How long opening a connection may take, with all that is said on it before its first statement.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// Read only (a standby behind the same address), shut down by its operator, after a crash, or not up yet.
const MOVED: &[&str] = &["25006", "57P01", "57P02", "57P03"];

const _: () = assert!(ANSWER_WAIT.as_millis() < STATEMENT_WAIT.as_millis());

/// Where every connection goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The database.
    pub url: Arc<DatabaseUrl>,
    /// The schema of `agent_messages` and `agent_registry`.
    pub schema: Arc<str>,
    /// How long an answer may take; `None`: as long as the server likes, as a migration needs.
    pub answer_wait: Option<Duration>,
}

impl Target {
    /// A database and the schema of the user's tables in it.
    pub fn new(url: DatabaseUrl, schema: &str) -> Self {
        Self { url: Arc::new(url), schema: schema.into(), answer_wait: None }
    }

    /// The same for a broker, which goes on on another connection where one does not answer in [`ANSWER_WAIT`].
    pub fn impatient(self) -> Self {
        Self { answer_wait: Some(ANSWER_WAIT), ..self }
    }
}

/// A connection to the database.
pub struct Connection {
    client: Client,
    driver: JoinHandle<()>,
    answer_wait: Option<Duration>,
    /// An answer did not come in time: the connection is not used again, though its socket may look alive.
    given_up: AtomicBool,
    // Never held across an await: a statement is looked up, or put in, and cloned.
    prepared: Mutex<HashMap<&'static str, Statement>>,
}

/// The parameters of a statement.
pub type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Connection {
    /// Opens a connection that ignores notifications.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open(target: &Target) -> Result<Self, StoreError> {
        Self::open_listening(target, |_| {}).await
    }

    /// Opens a connection and calls `heard` for each notification, on the task that reads the socket: it must
    /// not block.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn open_listening(
        target: &Target,
        heard: impl Fn(Notification) + Send + 'static,
    ) -> Result<Self, StoreError> {
        let late = || StoreError::unavailable(format!("no connection was made in {} s", OPEN_WAIT.as_secs()));
        timeout(OPEN_WAIT, Self::set_up(target, heard)).await.unwrap_or_else(|_| Err(late()))
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
        let this = Self { client, driver, answer_wait, given_up, prepared: Mutex::default() };
        let schema = target.schema.replace('"', "\"\"");
        let setup = format!(
            "{}set statement_timeout = {};\nset search_path = \"{schema}\", pg_temp;\nselect pg_is_in_recovery();",
            include_str!("../../sql/queries/session.sql"),
            STATEMENT_WAIT.as_millis(),
        );
        let said = this.client.simple_query(&setup).await?;
        if is_yes(&said) {
            return Err(StoreError::unavailable(format!(
                "{} is a standby, which takes no writes: the URL must lead to the primary",
                target.url
            )));
        }
        // Not prepared: behind a transaction pooler nothing must fail here, where no sentence would name the pooler.
        let literal = format!("E'{}'", target.schema.replace('\\', "\\\\").replace('\'', "\\'"));
        this.client.batch_execute(&SESSION_PATH.replace("$1", &literal)).await?;
        Ok(this)
    }

    /// Whether the server or the network ended it, or it was given up.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.given_up.load(Ordering::Relaxed)
    }

    /// Waits until the server or the network ends it.
    pub async fn closed(&mut self) {
        if !self.driver.is_finished() {
            // An aborted or panicked driver is as closed as one that returned.
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

    /// The same for a statement that gives exactly one row.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn query_one(&self, sql: &'static str, params: Params<'_>) -> Result<Row, StoreError> {
        let statement = self.prepare(sql).await?;
        self.answered(self.client.query_one(&statement, params)).await
    }

    /// The same, row by row: the server waits while nobody takes them.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn query_stream(&self, sql: &'static str, params: Params<'_>) -> Result<RowStream, StoreError> {
        let statement = self.prepare(sql).await?;
        self.answered(self.client.query_raw(&statement, params.to_vec())).await
    }

    /// The same, handing each row over as it comes. Where one is refused the connection is given up: the server would send
    /// all the others first.
    ///
    /// # Errors
    /// See [`StoreError`], and what `each` says.
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
        // Where the server refused, it sends nothing more.
        if done.as_ref().is_err_and(|e: &StoreError| e.sqlstate().is_none()) {
            self.give_up();
        }
        done
    }

    /// The same, for the number of rows it changed.
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

    /// Waits for an answer no longer than this connection's users can.
    async fn answered<T>(
        &self,
        asked: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let answer = match self.answer_wait {
            None => asked.await,
            Some(wait) => match timeout(wait, asked).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.give_up();
                    return Err(late(wait));
                }
            },
        };
        answer.map_err(|error| {
            let error = StoreError::from(error);
            // What answers is no primary (any more), or ends: only another connection can find the one there is now.
            if error.sqlstate().is_some_and(|code| MOVED.contains(&code)) {
                self.give_up();
            }
            error
        })
    }

    /// Ends it, whatever the server is about to send.
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
    StoreError::unavailable(format!("the database did not answer in {} s", wait.as_secs()))
}

impl Drop for Connection {
    /// A connection that hangs on a dead network would otherwise live until TCP gives up.
    fn drop(&mut self) {
        if !self.client.is_closed() {
            self.driver.abort();
        }
    }
}

/// Whether the last row is `t`.
fn is_yes(said: &[SimpleQueryMessage]) -> bool {
    let row = said.iter().rev().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.and_then(|row| row.try_get(0).ok().flatten()) == Some("t")
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
