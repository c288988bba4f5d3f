//! Makes scheduled deliveries ready at their time. One that takes no change (somebody's trigger on `postbell.deliveries`) is left
//! out of the others' statement for a while.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::cell::Cells;
use super::connection::WriteLimit;
use super::error::StoreError;
use super::halves::{SearchTime, begins, by_halves};
use super::pool::{Pool, only};
use super::reap::BATCH_ROWS;
use crate::store::sql::queries;

/// How long the statement for all may take. After that one of its rows is to blame, and is searched for.
const MANY: WriteLimit = WriteLimit::Each(Duration::from_secs(1));
const SEARCH: SearchTime = SearchTime { a_try: Duration::from_millis(300), all: Duration::from_secs(1) };
/// A row that was refused alone is left out for this time.
const LEFT_OUT_FOR: Duration = Duration::from_secs(30);
/// The most rows that are left out. Further ones are searched for each time.
const LEFT_OUT_MAX: usize = 10_000;

/// The result of a promotion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Promoted {
    /// The number of deliveries that are ready now.
    pub rows: i64,
    /// The wait until the next is due, if that is known.
    pub next: Option<Duration>,
}

/// Promotes, and remembers what was refused.
pub(crate) struct Promoter {
    pool: Pool,
    /// The deliveries that were refused, and when.
    left_out: HashMap<i64, Instant>,
    why: String,
}

impl Promoter {
    pub(crate) fn new(pool: Pool) -> Self {
        Self { pool, left_out: HashMap::new(), why: String::new() }
    }

    /// Makes scheduled deliveries ready that are due, at most [`BATCH_ROWS`].
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) async fn promote(&mut self) -> Result<Promoted, StoreError> {
        self.left_out.retain(|_, at| at.elapsed() < LEFT_OUT_FOR);
        let left_out: Vec<i64> = self.left_out.keys().copied().collect();
        match self.pool.write(MANY, queries::DUE_PROMOTE, &[&BATCH_ROWS, &left_out]).await {
            Err(e) if begins(&self.pool, &e).await => self.promote_apart(&left_out).await,
            rows => {
                let row = only(rows?)?;
                let next: Option<i64> = row.cell("next_ms")?;
                let next = next.map(|ms| Duration::from_millis(ms.max(0) as u64));
                Ok(Promoted { rows: row.cell("promoted")?, next })
            }
        }
    }

    /// A sentence about what was left out.
    pub(crate) fn left_out(&self) -> Option<String> {
        let n = self.left_out.len();
        let why = &self.why;
        (n > 0).then(|| {
            format!(
                "{n} deliveries whose time has come take no change and are tried again every {} s, while all others go on: {why}.",
                LEFT_OUT_FOR.as_secs()
            )
        })
    }

    async fn promote_apart(&mut self, left_out: &[i64]) -> Result<Promoted, StoreError> {
        // While somebody locks the whole table, no row is to blame.
        these(&self.pool, &[]).await?;
        let row = self.pool.query_one(queries::DUE_FOUND, &[&BATCH_ROWS, &left_out]).await?;
        let due: Vec<i64> = row.cell("due")?;
        let found = by_halves(&due, SEARCH, |part| these(&self.pool, part)).await?;
        let now = Instant::now();
        for (delivery, e) in &found.refused {
            if self.left_out.len() < LEFT_OUT_MAX {
                self.left_out.insert(**delivery, now);
            }
            self.why = e.to_string();
        }
        let next = found.is_cut_short.then_some(Duration::ZERO);
        Ok(Promoted { rows: found.written.iter().sum(), next })
    }
}

async fn these(pool: &Pool, deliveries: &[i64]) -> Result<i64, StoreError> {
    only(pool.write(WriteLimit::Each(SEARCH.a_try), queries::DUE_THESE, &[&deliveries]).await?)?
        .cell("promoted")
}
