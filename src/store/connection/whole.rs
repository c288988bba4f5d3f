//! Writes to the user's tables: what a table defers to the COMMIT is a part of the statement, and has a time.

use std::future::Future;
use std::mem::forget;
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::future::join3;
use tokio::time::timeout;
use tokio_postgres::{NoTls, Row};

use super::{Connection, Params, StoreError, tls};
use crate::store::url::SslMode;

/// The time of a statement does not count what is deferred to the COMMIT, such as a user's constraint trigger. So that is
/// done before, in a statement of its own.
pub(in crate::store) const END: &str = "set constraints all immediate; commit";
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
        if ended.is_err() && !self.is_closed() {
            self.batch("rollback").await?;
        }
        ended
    }

    /// If the statement is prepared, the three messages are written at once, in this order, and cost one round trip. If
    /// not, preparing would put the statement behind the others, so each is awaited.
    async fn whole<T>(
        &self,
        limit: WriteLimit,
        sql: &'static str,
        statement: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let begin = match limit {
            WriteLimit::OfTheConnection => "begin".to_owned(),
            WriteLimit::Half => begin_within(self.statement_wait / 2),
            WriteLimit::Each(wait) => begin_within(wait),
        };
        let unfinished = Unfinished(self);
        let is_prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner).contains_key(sql);
        let (began, done, ended) = match is_prepared {
            true => join3(self.batch(&begin), statement, self.batch(END)).await,
            false => (self.batch(&begin).await, statement.await, self.batch(END).await),
        };
        let written = began.and(done).and_then(|done| ended.map(|()| done));
        if written.is_err() && !self.is_closed() {
            self.batch("rollback").await?;
        }
        forget(unfinished);
        written
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

fn begin_within(wait: Duration) -> String {
    format!("begin; set local statement_timeout = {}", wait.as_millis())
}
