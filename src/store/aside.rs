//! Writes that the user's tables did not take: tried again, listed, dropped. See `sql/migrations/0016_set_aside.sql`.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use tokio::time::Instant;
use uuid::Uuid;

use super::cell::Cells;
use super::connection::{Connection, Params, Target};
use super::cut_off::{ENDED, Losses};
use super::error::{Fault, StoreError};
use super::pool::Pool;
use super::settle::SettleConnection;
use crate::base::moment;
use crate::store::sql::queries;

/// The most rows that one statement tries or drops.
const BATCH_ROWS: i64 = 500;
/// How long one statement goes on trying.
const TRY_MS: i32 = 300;
/// Rows are counted up to here, so that a table that refuses everything does not make counting expensive.
pub const COUNTED_MAX: i64 = 100_000;
/// The reason that is noted if the server gave none.
const TOOK_TOO_LONG: &str = "the change of the row of agent_messages takes too long: look for a trigger that is slow, or for a lock that is held";

/// The results of a try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tried {
    /// Rows whose status was written.
    pub written: u64,
    /// Rows that need no write any more: somebody else ended the message, or made it wait again.
    pub gone: u64,
    /// Rows that are still not taken.
    pub refused: u64,
}

impl Tried {
    /// The number of rows that were tried.
    pub fn all(&self) -> u64 {
        self.written + self.gone + self.refused
    }

    fn add(&mut self, other: Self) {
        self.written += other.written;
        self.gone += other.gone;
        self.refused += other.refused;
    }
}

/// A row of `postbell.set_aside`.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the columns of postbell.set_aside")]
pub struct Aside {
    /// The number by which retry and drop name it.
    #[serde(rename = "number")]
    pub aside_id: i64,
    pub message_id: Option<Uuid>,
    pub inbox: String,
    pub kind: String,
    pub status: String,
    pub reason: String,
    #[serde(serialize_with = "moment::serialize")]
    pub since: Option<SystemTime>,
    pub tries: i32,
}

/// A kind of row, and how many of that kind are set aside.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Count {
    pub kind: String,
    pub count: u64,
    pub since_seconds: f64,
    /// One of the reasons, and the number of different ones.
    pub reason: String,
    pub reasons: i64,
    /// One of the inboxes.
    pub inbox: String,
}

/// A filter for a list.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Filter<'a> {
    pub inbox: Option<&'a str>,
    pub kind: Option<&'a str>,
    pub before: Option<i64>,
    pub limit: i64,
}

/// A choice of rows to retry or drop: these numbers, or those of an inbox, or all.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Chosen<'a> {
    pub ids: Option<&'a [i64]>,
    pub inbox: Option<&'a str>,
}

/// A connection for tries, opened when it is needed: the server process may end at a row.
pub struct Tries {
    connection: SettleConnection,
    losses: Losses,
}

impl Tries {
    /// Tries on this database.
    pub fn new(target: Target) -> Self {
        Self { connection: SettleConnection::new(target), losses: Losses::new(Instant::now()) }
    }

    /// Ends the connection; the next try opens another.
    pub(crate) fn rest(&mut self) {
        self.connection.rest();
    }

    /// Tries the rows that are due, for at most a moment.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn retry_due(&mut self) -> Result<Tried, StoreError> {
        if !self.losses.are_too_many(Instant::now()) {
            match retry(self.connection.get().await?, None).await {
                Err(e) if e.may_be_of_a_row() => {}
                tried => return tried,
            }
        }
        // One row took all of the time, or failed in a way that the statement cannot catch: trying each alone finds it.
        let mut tried = Tried::default();
        for row in self.connection.get().await?.query(queries::ASIDE_DUE, &[&BATCH_ROWS]).await? {
            if self.losses.are_too_many(Instant::now()) {
                break;
            }
            tried.add(self.retry_one(row.cell("aside_id")?).await?);
        }
        Ok(tried)
    }

    async fn retry_one(&mut self, id: i64) -> Result<Tried, StoreError> {
        match retry(self.connection.get().await?, Some(&[id])).await {
            Err(e) if e.may_be_of_a_row() => {
                let why = match e.fault() {
                    _ if e.is_cut_off() => {
                        self.losses.add(Instant::now());
                        ENDED.to_owned()
                    }
                    Fault::Slow => TOOK_TOO_LONG.to_owned(),
                    _ => e.to_string(),
                };
                // A server that takes no writes does not take this one either: then no row is to blame.
                self.connection.get().await?.execute(queries::ASIDE_SLOW, &[&id, &why]).await?;
                Ok(Tried { refused: 1, ..Tried::default() })
            }
            tried => tried,
        }
    }

    /// Tries the chosen rows now, at an operator's request.
    ///
    /// # Errors
    /// See [`StoreError`]. Rows that were written before the error stay written.
    pub async fn retry_chosen(&mut self, chosen: Chosen<'_>) -> Result<Tried, StoreError> {
        let (mut tried, mut after) = (Tried::default(), i64::MIN);
        loop {
            let ids = some(self.connection.get().await?, chosen, after).await?;
            let Some(last) = ids.last() else { return Ok(tried) };
            after = *last;
            for id in &ids {
                tried.add(self.retry_one(*id).await?);
            }
        }
    }
}

async fn retry(connection: &Connection, ids: Option<&[i64]>) -> Result<Tried, StoreError> {
    let mut tried = Tried::default();
    let (sql, params): (_, Params<'_>) = (queries::ASIDE_RETRY, &[&ids, &BATCH_ROWS, &TRY_MS]);
    for row in connection.looking(sql, connection.query(sql, params)).await? {
        match row.cell("became")? {
            "written" => tried.written += 1,
            "gone" => tried.gone += 1,
            _ => tried.refused += 1,
        }
    }
    Ok(tried)
}

/// Drops the chosen rows, and returns how many.
///
/// # Errors
/// See [`StoreError`]. Rows that were dropped before the error stay dropped.
pub async fn drop_chosen(connection: &Connection, chosen: Chosen<'_>) -> Result<u64, StoreError> {
    let (mut dropped, mut after) = (0, i64::MIN);
    loop {
        let ids = some(connection, chosen, after).await?;
        let Some(last) = ids.last() else { return Ok(dropped) };
        after = *last;
        dropped += connection.execute(queries::ASIDE_DROP, &[&ids]).await?;
    }
}

/// Makes the first 1,000 of the chosen rows due now, and returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn retry_soon(pool: &Pool, chosen: Chosen<'_>) -> Result<u64, StoreError> {
    pool.execute(queries::ASIDE_SOON, &[&first_of(pool, chosen).await?]).await
}

/// Drops the first 1,000 of the chosen rows, and returns how many.
///
/// # Errors
/// See [`StoreError`].
pub async fn drop_some(pool: &Pool, chosen: Chosen<'_>) -> Result<u64, StoreError> {
    pool.execute(queries::ASIDE_DROP, &[&first_of(pool, chosen).await?]).await
}

async fn first_of(pool: &Pool, chosen: Chosen<'_>) -> Result<Vec<i64>, StoreError> {
    let rows = pool
        .query(queries::ASIDE_CHOSEN, &[&chosen.ids, &chosen.inbox, &i64::MIN, &(2 * BATCH_ROWS)])
        .await?;
    rows.iter().map(|row| row.cell("aside_id")).collect()
}

async fn some(connection: &Connection, chosen: Chosen<'_>, after: i64) -> Result<Vec<i64>, StoreError> {
    let rows =
        connection.query(queries::ASIDE_CHOSEN, &[&chosen.ids, &chosen.inbox, &after, &BATCH_ROWS]).await?;
    rows.iter().map(|row| row.cell("aside_id")).collect()
}

/// The wait until the next row is due; `None` if none is set aside.
///
/// # Errors
/// See [`StoreError`].
pub async fn next_due(pool: &Pool) -> Result<Option<Duration>, StoreError> {
    let next: Option<i64> = pool.query_one(queries::ASIDE_NEXT, &[]).await?.cell("next_ms")?;
    Ok(next.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs())))
}

/// A page of rows, the newest first.
///
/// # Errors
/// See [`StoreError`].
pub async fn list(pool: &Pool, filter: &Filter<'_>) -> Result<Vec<Aside>, StoreError> {
    let Filter { inbox, kind, before, limit } = filter;
    let rows = pool.query(queries::ASIDE_LIST, &[inbox, kind, before, limit]).await?;
    let aside = |row: &tokio_postgres::Row| {
        Ok(Aside {
            aside_id: row.cell("aside_id")?,
            message_id: row.cell("message_id")?,
            inbox: row.cell("inbox")?,
            kind: row.cell("kind")?,
            status: row.cell("status")?,
            reason: row.cell("reason")?,
            since: row.cell("since").ok(),
            tries: row.cell("tries")?,
        })
    };
    rows.iter().map(aside).collect()
}

/// The number of rows of each kind, counted up to [`COUNTED_MAX`] together. Kinds without rows are left out.
///
/// # Errors
/// See [`StoreError`].
pub async fn counts(pool: &Pool) -> Result<Vec<Count>, StoreError> {
    pool.query(queries::ASIDE_COUNTS, &[&COUNTED_MAX]).await?.iter().map(count).collect()
}

/// [`counts`] on a connection.
///
/// # Errors
/// See [`StoreError`].
pub async fn counts_on(connection: &Connection) -> Result<Vec<Count>, StoreError> {
    connection.query(queries::ASIDE_COUNTS, &[&COUNTED_MAX]).await?.iter().map(count).collect()
}

fn count(row: &tokio_postgres::Row) -> Result<Count, StoreError> {
    Ok(Count {
        kind: row.cell("kind")?,
        count: row.count("n")?,
        since_seconds: row.cell("since_seconds")?,
        reason: row.cell("reason")?,
        reasons: row.cell("reasons")?,
        inbox: row.cell("inbox")?,
    })
}
