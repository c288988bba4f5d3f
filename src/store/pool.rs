//! Shared connections, for everything but the tail, the bell, the settler, the marker, the publisher and the leases,
//! which have their own.

use std::mem::take;
use std::ops::Deref;
use std::time::Duration;

use tokio_postgres::Row;

use super::connection::{Connection, Params, Target, WriteLimit};
use super::error::StoreError;

/// How long a caller waits for a connection.
pub(crate) const POOL_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Manager(Target);

impl bb8::ManageConnection for Manager {
    type Connection = Connection;
    type Error = StoreError;

    async fn connect(&self) -> Result<Connection, StoreError> {
        Connection::open(&self.0).await
    }

    // A round trip before each use would double the cost of most uses. The socket tells whether a connection is lost.
    async fn is_valid(&self, connection: &mut Connection) -> Result<(), StoreError> {
        match connection.is_good().await {
            true => Ok(()),
            false => Err(StoreError::unavailable("the connection to the database was lost")),
        }
    }

    fn has_broken(&self, connection: &mut Connection) -> bool {
        connection.is_closed()
    }
}

/// A pool of connections; clones share it.
#[derive(Clone)]
pub struct Pool(bb8::Pool<Manager>, Target);

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
            .build_unchecked(Manager(target.clone()));
        Self(pool, target)
    }

    /// Runs a statement of `sql/queries` on any connection. If a table was altered after that one had prepared it, another one
    /// takes it; and once more another one if it failed where a trigger of the user's had left a setting behind.
    ///
    /// # Errors
    /// See [`StoreError`]; also when no connection was free in `POOL_WAIT`.
    pub async fn query(&self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, StoreError> {
        let mut again = true;
        loop {
            let connection = self.get().await?;
            match connection.looking(sql, connection.query(sql, params)).await {
                Err(e) if e.is_of_plan() || (e.is_of_settings() && take(&mut again)) => {}
                done => return done,
            }
        }
    }

    /// [`query`](Self::query) for a statement that returns exactly one row.
    ///
    /// # Errors
    /// See [`query`](Self::query).
    pub async fn query_one(&self, sql: &'static str, params: Params<'_>) -> Result<Row, StoreError> {
        let mut again = true;
        loop {
            let connection = self.get().await?;
            match connection.looking(sql, connection.query_one(sql, params)).await {
                Err(e) if e.is_of_plan() || (e.is_of_settings() && take(&mut again)) => {}
                done => return done,
            }
        }
    }

    /// Runs a statement and returns the number of rows that it changed.
    ///
    /// # Errors
    /// See [`query`](Self::query).
    pub async fn execute(&self, sql: &'static str, params: Params<'_>) -> Result<u64, StoreError> {
        let mut again = true;
        loop {
            let connection = self.get().await?;
            match connection.looking(sql, connection.execute(sql, params)).await {
                Err(e) if e.is_of_plan() || (e.is_of_settings() && take(&mut again)) => {}
                done => return done,
            }
        }
    }

    /// [`query`](Self::query) for a write of the user's tables: what they defer to the COMMIT is done, and is a part of it.
    ///
    /// # Errors
    /// See [`query`](Self::query).
    pub(super) async fn write(
        &self,
        limit: WriteLimit,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut again = true;
        loop {
            match self.get().await?.write(limit, sql, params).await {
                Err(e) if e.is_of_plan() || (e.is_of_settings() && take(&mut again)) => {}
                done => return done,
            }
        }
    }

    /// [`write`](Self::write) of tables that defer nothing, in one statement, in this time, and with one try.
    ///
    /// # Errors
    /// See [`query`](Self::query).
    pub(super) async fn write_bare(
        &self,
        wait: Duration,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<Vec<Row>, StoreError> {
        self.get().await?.write_bare(wait, sql, params).await
    }

    /// [`write`](Self::write) for a statement that returns exactly one row.
    ///
    /// # Errors
    /// See [`query`](Self::query).
    pub(super) async fn write_one(&self, sql: &'static str, params: Params<'_>) -> Result<Row, StoreError> {
        only(self.write(WriteLimit::Half, sql, params).await?)
    }

    /// [`execute`](Self::execute), as [`write`](Self::write) does it.
    ///
    /// # Errors
    /// See [`query`](Self::query).
    pub(super) async fn write_count(&self, sql: &'static str, params: Params<'_>) -> Result<u64, StoreError> {
        self.write_count_within(WriteLimit::Half, sql, params).await
    }

    /// [`write_count`](Self::write_count) in a time of the caller's.
    ///
    /// # Errors
    /// See [`query`](Self::query).
    pub(super) async fn write_count_within(
        &self,
        limit: WriteLimit,
        sql: &'static str,
        params: Params<'_>,
    ) -> Result<u64, StoreError> {
        let mut again = true;
        loop {
            match self.get().await?.write_count(limit, sql, params).await {
                Err(e) if e.is_of_plan() || (e.is_of_settings() && take(&mut again)) => {}
                done => return done,
            }
        }
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
        mut each: impl FnMut(Row) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        loop {
            let connection = self.get().await?;
            // Such a statement has given no row.
            match connection.looking(sql, connection.query_each(sql, params, &mut each)).await {
                Err(e) if e.is_of_plan() => {}
                done => return done,
            }
        }
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
        connection.end(answer.is_ok()).await?;
        answer
    }

    /// The database, for a connection of one's own.
    pub(super) fn target(&self) -> &Target {
        &self.1
    }

    /// A connection, for several statements that belong together. The caller ends the transaction that it begins.
    pub(crate) async fn get(&self) -> Result<impl Deref<Target = Connection>, StoreError> {
        self.0.get().await.map_err(|e| match e {
            bb8::RunError::User(e) => e,
            bb8::RunError::TimedOut => StoreError::unavailable(format!(
                "no database connection was free or could be opened in {} s",
                POOL_WAIT.as_secs()
            )),
        })
    }
}

/// The only row of an answer.
pub(super) fn only(rows: Vec<Row>) -> Result<Row, StoreError> {
    match <[Row; 1]>::try_from(rows) {
        Ok([row]) => Ok(row),
        Err(rows) => {
            Err(StoreError::refused(format!("a statement returned {} rows and not one", rows.len())))
        }
    }
}
