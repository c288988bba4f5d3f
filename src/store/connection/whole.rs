//! Writes to the user's tables: what a table defers to the COMMIT is a part of the statement, and has a time.

use std::borrow::Cow;
use std::future::Future;
use std::mem::forget;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join4;
use tokio::time::{Instant, timeout};
use tokio_postgres::{NoTls, Row};

use super::{Connection, Params, StoreError, late, tls};
use crate::store::sql::queries;
use crate::store::url::SslMode;

const END: &str = "set constraints all immediate; commit";
/// How long an answer may be on its way.
const WAY: Duration = Duration::from_secs(1);
/// How long a write that was not answered is remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);
/// How long a cancellation may take. Nobody waits for it.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// How long a write may take.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum WriteLimit {
    /// As long as the connection's statements.
    OfTheConnection,
    /// Half of that, so that the statement and what was deferred end in the time of one.
    Half,
    /// So long, and what was deferred once more so long.
    Each(Duration),
}

/// The times of one write.
struct Times {
    begin: Cow<'static, str>,
    /// The time of each statement, if it is not the connection's.
    local: Option<Duration>,
    /// The time after which no answer is waited for: the statement, and what was deferred.
    whole: Duration,
}

impl Times {
    fn of(limit: WriteLimit, statement: Duration) -> Self {
        let local = match limit {
            WriteLimit::OfTheConnection => None,
            WriteLimit::Half => Some(statement / 2),
            WriteLimit::Each(wait) => Some(wait),
        };
        let begin = match local {
            None => "begin".into(),
            Some(wait) => format!("begin; set local statement_timeout = {}", wait.as_millis()).into(),
        };
        Self { begin, local, whole: 2 * local.unwrap_or(statement) + WAY }
    }
}

/// The last time that a write to a database was not answered. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Unanswered(Arc<Mutex<Option<Instant>>>);

impl Unanswered {
    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    fn is_recent(&self) -> bool {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.is_some_and(|at| at.elapsed() < REMEMBERED_FOR)
    }
}

impl Connection {
    /// [`query`](Self::query) for a write of the user's tables, in a transaction of its own that is over when this returns.
    ///
    /// # Errors
    /// See [`StoreError`]; also what a deferred constraint or trigger says.
    pub(in crate::store) async fn write(
        &self,
        limit: WriteLimit,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.whole(limit, sql, self.query(sql, params)).await
    }

    /// [`write`](Self::write) without a transaction around it, for tables that defer nothing to the COMMIT. The COMMIT has no limit at
    /// the server, so the connection is given up if no answer comes in this time.
    ///
    /// # Errors
    /// See [`write`](Self::write).
    pub(in crate::store) async fn write_bare(
        &self,
        wait: Duration,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let unfinished = Unfinished(self);
        let written = timeout(wait, self.looking(sql, self.query(sql, params))).await;
        forget(unfinished);
        written.unwrap_or_else(|_| {
            self.abandon();
            self.unanswered.note();
            Err(late(wait))
        })
    }

    /// [`execute`](Self::execute), as [`write`](Self::write) does it.
    ///
    /// # Errors
    /// See [`write`](Self::write).
    pub(in crate::store) async fn write_count(
        &self,
        limit: WriteLimit,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<u64, StoreError> {
        self.whole(limit, sql, self.execute(sql, params)).await
    }

    /// Ends a transaction of several statements: with what was deferred and a COMMIT, or with a rollback.
    ///
    /// # Errors
    /// See [`write`](Self::write). After an error nothing of the transaction is written, or nobody knows whether it is.
    pub(in crate::store) async fn end(&self, is_good: bool) -> Result<(), StoreError> {
        if !is_good {
            return self.batch("rollback").await;
        }
        let ended = self.batch(END).await;
        match ended.is_ok() {
            true => _ = self.compare(self.look().await),
            false if self.is_closed() => {}
            false => self.batch("rollback").await?,
        }
        ended
    }

    async fn whole<T>(
        &self,
        limit: WriteLimit,
        sql: &'static str,
        statement: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let unfinished = Unfinished(self);
        let times = Times::of(limit, self.kept().statement_wait);
        let within = self.messages(&times, sql, statement);
        let written = match self.answer_wait.map(|wait| wait.min(times.whole)) {
            None => within.await,
            Some(wait) => timeout(wait, within).await.unwrap_or_else(|_| {
                self.abandon();
                Err(late(wait))
            }),
        };
        let written = match written {
            Err(e) if self.is_closed() => {
                if e.sqlstate().is_none() && !e.is_cut_off() {
                    self.unanswered.note();
                }
                Err(e)
            }
            // That takes back what the transaction's triggers set. An earlier one may be the cause.
            Err(e) => {
                self.batch("rollback").await?;
                Err(if self.compare(self.look().await) { e } else { e.of_settings() })
            }
            written => written,
        };
        forget(unfinished);
        written
    }

    /// If the statement is prepared, the messages are written at once, in this order, and cost one round trip. If not,
    /// preparing would put the statement behind the others, so each is awaited.
    async fn messages<T>(
        &self,
        times: &Times,
        sql: &'static str,
        statement: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let end = self.ending(times.local);
        let is_due = self.is_look_due();
        let look = async {
            match is_due {
                true => Some(self.look().await),
                false => None,
            }
        };
        self.prepare(queries::SESSION_KEPT).await?;
        let (began, done, ended, found) = match self.is_prepared(sql) {
            true => join4(self.batch(&times.begin), statement, self.batch(&end), look).await,
            false => (self.batch(&times.begin).await, statement.await, self.batch(&end).await, look.await),
        };
        let written = began.and(done).and_then(|done| ended.map(|()| done))?;
        match found {
            Some(found) => _ = self.compare(found),
            None => self.doubt(),
        }
        Ok(written)
    }

    /// The time of a statement does not count what is deferred to the COMMIT, such as a user's constraint trigger. So that is
    /// done before, in a statement of its own. A trigger may have set another time for that: it is set again where that costs
    /// nobody anything, and everywhere for a while after a write that was not answered.
    fn ending(&self, local: Option<Duration>) -> Cow<'static, str> {
        let again = || self.unanswered.is_recent().then(|| self.kept().statement_wait);
        match local.or_else(again) {
            None => Cow::Borrowed(END),
            Some(wait) => Cow::Owned(format!("set local statement_timeout = {}; {END}", wait.as_millis())),
        }
    }

    /// Ends the connection and the statement that it waits for: the server would go on with the statement, and hold
    /// its rows, until it wrote to the connection.
    pub(super) fn abandon(&self) {
        self.give_up();
        let (token, url) = (self.client.cancel_token(), self.url.clone());
        tokio::spawn(async move {
            let cancelling = async {
                match url.ssl_mode() {
                    SslMode::Disable => token.cancel_query(NoTls).await.map_err(StoreError::from),
                    _ => Ok(token.cancel_query(tls::connector(&url)?).await?),
                }
            };
            if let Ok(Err(error)) = timeout(CANCEL_WAIT, cancelling).await {
                tracing::debug!(%error, "a statement that took too long could not be cancelled");
            }
        });
    }
}

/// A caller may stop waiting. The connection is then within the transaction, so nobody may use it.
struct Unfinished<'a>(&'a Connection);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}
