//! Shared connections, for everything but the tail, the bell, the settler, the marker, the publisher and the leases,
//! which have their own.

use std::ops::Deref;
use std::time::Duration;

use tokio_postgres::Row;

use super::connection::{Connection, Params, Target};
use super::error::StoreError;

/// How long a caller waits for a connection.
pub const POOL_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Manager(Target);

impl bb8::ManageConnection for Manager {
    type Connection = Connection;
    type Error = StoreError;

    async fn connect(&self) -> Result<Connection, StoreError> {
        Connection::open(&self.0).await
    }

    // A round trip before each use would double the cost of most uses. The socket tells whether a connection is lost.
    async fn is_valid(&self, connection: &mut Connection) -> Result<(), StoreError> {
        match connection.is_closed() {
            true => Err(StoreError::unavailable("the connection to the database was lost")),
            false => Ok(()),
        }
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.is_closed()
    }
}

/// A pool of connections; clones share it.
#[derive(Clone)]
pub struct Pool(bb8::Pool<Manager>);

impl Pool {
    /// At most `size` connections, opened when they are first needed.
    pub fn new(target: Target, size: u32) -> Self {
        let pool = bb8::Pool::builder()
            .max_size(size)
            .connection_timeout(POOL_WAIT)
            // The connection used last has prepared the statements already. If connections took turns, each would
            // have to prepare all of them, even at rest.
            .queue_strategy(bb8::QueueStrategy::Lifo)
            .test_on_check_out(true)
            .retry_connection(true)
            .build_unchecked(Manager(target));
        Self(pool)
    }

    /// Runs a statement of `sql/queries` on any connection.
    ///
    /// # Errors
    /// See [`StoreError`]; also when no connection was free in [`POOL_WAIT`].
    pub async fn query(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        self.get().await?.query(sql, params).await
    }

    /// [`query`](Self::query) for a statement that returns exactly one row.
    ///
    /// # Errors
    /// See [`query`](Self::query).
    pub async fn query_one(&self, sql: &'static str, params: Params<'_>) -> Result<Row, StoreError> {
        self.get().await?.query_one(sql, params).await
    }

    /// Runs a statement and returns the number of rows that it changed.
    ///
    /// # Errors
    /// See [`query`](Self::query).
    pub async fn execute(&self, sql: &'static str, params: Params<'_>) -> Result<u64, StoreError> {
        self.get().await?.execute(sql, params).await
    }

    /// [`query`](Self::query), calling `each` for each row as it comes. After an error of `each` no more rows are
    /// read.
    ///
    /// # Errors
    /// See [`query`](Self::query), and the errors of `each`.
    pub async fn query_each(
        &self,
        sql: &'static str,
        params: Params<'_>,
        each: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.get().await?.query_each(sql, params, each).await
    }

    /// Runs a statement that returns at most one row, and commits only after `read` accepted the answer.
    ///
    /// # Errors
    /// See [`query`](Self::query), and the errors of `read`. After those nothing was changed.
    pub async fn in_transaction<T>(
        &self,
        sql: &'static str,
        params: Params<'_>,
        read: impl FnOnce(Option<&Row>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let connection = self.get().await?;
        connection.batch("begin").await?;
        let answer = match connection.query(sql, params).await {
            Ok(rows) => read(rows.first()),
            Err(e) => Err(e),
        };
        connection.batch(if answer.is_ok() { "commit" } else { "rollback" }).await?;
        answer
    }

    /// A connection, for several statements of one transaction, which the caller ends.
    pub(super) async fn get(&self) -> Result<impl Deref<Target = Connection>, StoreError> {
        self.0.get().await.map_err(|e| match e {
            bb8::RunError::User(e) => e,
            bb8::RunError::TimedOut => StoreError::unavailable(format!(
                "no database connection was free or could be opened in {} s",
                POOL_WAIT.as_secs()
            )),
        })
    }
}
