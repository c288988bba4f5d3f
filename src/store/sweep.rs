//! The sweep: makes deliveries for messages that were written while no trigger of ours fired, or that the router could not route.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::cell::Cells;
use super::connection::{Connection, Target, WriteLimit};
use super::error::StoreError;
use super::halves::{SearchTime, begins, by_halves};
use super::pool::{Pool, only};
use crate::store::sql::queries;

/// The most messages of one sweep, so that none holds its locks for long.
pub const SWEEP_ROWS: i32 = 500;

/// How long the statement for all may take. After that one of its messages is to blame, and is searched for.
const MANY: WriteLimit = WriteLimit::Each(Duration::from_secs(1));
const SEARCH: SearchTime = SearchTime { a_try: Duration::from_millis(300), all: Duration::from_secs(2) };
/// A message that was refused alone is left out for this time.
const LEFT_OUT_FOR: Duration = Duration::from_secs(30);
/// The most messages that are left out. Further ones are searched for each time.
const LEFT_OUT_MAX: usize = 10_000;

/// A look at all messages reads two tables whole.
const LONG: &str = "set statement_timeout = '10min'";

/// The result of a sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// The noted messages that it took, at most [`SWEEP_ROWS`].
    pub took: i64,
    /// Deliveries that became ready.
    pub ready: i64,
    /// Whether a trigger was touched, so that all messages must be looked at.
    pub look: bool,
}

/// Sweeps, and remembers what was refused.
pub struct Sweeper {
    pool: Pool,
    /// The notes that were refused, and when.
    left_out: HashMap<i64, Instant>,
    why: String,
}

impl Sweeper {
    /// One that was refused nothing yet.
    pub fn new(pool: Pool) -> Self {
        Self { pool, left_out: HashMap::new(), why: String::new() }
    }

    /// Makes deliveries for the messages that were noted.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn sweep(&mut self) -> Result<Swept, StoreError> {
        self.left_out.retain(|_, at| at.elapsed() < LEFT_OUT_FOR);
        let left_out: Vec<i64> = self.left_out.keys().copied().collect();
        match self.pool.write(MANY, queries::SWEEP, &[&SWEEP_ROWS, &left_out]).await {
            Err(e) if begins(&self.pool, &e).await => self.sweep_apart(&left_out).await,
            rows => {
                let row = only(rows?)?;
                Ok(Swept { took: row.cell("took")?, ready: row.cell("ready")?, look: row.cell("look")? })
            }
        }
    }

    /// A sentence about what was left out.
    pub fn left_out(&self) -> Option<String> {
        let n = self.left_out.len();
        let why = &self.why;
        (n > 0).then(|| {
            format!(
                "{n} messages can have no delivery and are tried again every {} s, while all others go on: {why}.",
                LEFT_OUT_FOR.as_secs()
            )
        })
    }

    async fn sweep_apart(&mut self, left_out: &[i64]) -> Result<Swept, StoreError> {
        // While somebody locks a whole table, no message is to blame.
        these(&self.pool, &[]).await?;
        let row = self.pool.query_one(queries::SWEEP_FOUND, &[&SWEEP_ROWS, &left_out]).await?;
        let notes: Vec<i64> = row.cell("notes")?;
        let found = by_halves(&notes, SEARCH, |part| these(&self.pool, part)).await?;
        let now = Instant::now();
        for (note, e) in &found.refused {
            if self.left_out.len() < LEFT_OUT_MAX {
                self.left_out.insert(**note, now);
            }
            self.why = e.to_string();
        }
        let sum = |part: fn(&(i64, i64)) -> i64| found.written.iter().map(part).sum();
        // As after a whole batch: what had no turn has it at once.
        let took = if found.is_cut_short { i64::from(SWEEP_ROWS) } else { sum(|(took, _)| *took) };
        Ok(Swept { took, ready: sum(|(_, ready)| *ready), look: row.cell("look")? })
    }
}

async fn these(pool: &Pool, notes: &[i64]) -> Result<(i64, i64), StoreError> {
    let row = only(pool.write(WriteLimit::Each(SEARCH.a_try), queries::SWEEP_THESE, &[&notes]).await?)?;
    Ok((row.cell("took")?, row.cell("ready")?))
}

/// Looks at all messages, however long that takes. Returns how many deliveries became ready, or `None` if another
/// broker is looking.
///
/// # Errors
/// See [`StoreError`].
pub async fn look_at_all(target: &Target) -> Result<Option<i64>, StoreError> {
    let patient = Target { answer_wait: None, ..target.clone() }.looking_on();
    let connection = Connection::open(&patient).await?;
    connection.batch(LONG).await?;
    connection.query_one(queries::SWEEP_ALL, &[]).await?.cell("ready")
}
