//! Alerts: raises those about absent agents, and escalates those that nobody acknowledged.

mod apart;
mod ruled;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use tokio_postgres::Row;
use uuid::Uuid;

use super::blame;
use super::cell::Cells;
use super::connection::Params;
use super::error::{Fault, StoreError};
use super::pool::Pool;
use crate::store::sql::queries;
use apart::Apart;
use ruled::Act;

/// feature_not_supported: a rule of the user's, with which a statement does not go as it is.
const RULED: &str = "0A000";

/// The most alerts that one statement raises or escalates.
pub(crate) const ALERTS_MAX: i64 = 500;
/// By so much is a batch smaller after one that failed.
const SMALLER_BY: i64 = 8;
/// A statement that failed after so long may have had too much to do.
const LATE: Duration = Duration::from_secs(3);

/// How long a condition lasts before it becomes an alert, or an alert is escalated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlertTimes {
    /// The absence of an agent that said no goodbye.
    pub offline: Duration,
    /// The time for which nobody has acknowledged an alert.
    pub escalate: Duration,
}

/// The result of one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    /// The number of alerts, at most [`ALERTS_MAX`].
    pub rows: i64,
    /// The wait until the next alert is due, if one is known.
    pub next: Option<Duration>,
}

/// Looks after alerts that come with time. A batch that fails is tried in smaller ones, and one that fails by itself
/// is tried again later, so that it stands in no other's way.
pub(crate) struct Lookout {
    pool: Pool,
    act: Act,
    after: Duration,
    apart: Mutex<Apart>,
}

impl Lookout {
    /// Raises an alert for each agent that has been away for so long.
    pub(crate) fn for_absences(pool: Pool, after: Duration) -> Self {
        Self { pool, act: Act::Raise, after, apart: Mutex::default() }
    }

    /// Tells the orchestrators of each alert that nobody acknowledged for so long.
    pub(crate) fn for_unacknowledged(pool: Pool, after: Duration) -> Self {
        Self { pool, act: Act::Escalate, after, apart: Mutex::default() }
    }

    /// Looks once.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) async fn look(&self) -> Result<Look, StoreError> {
        let (mut most, mut done) = (ALERTS_MAX, 0);
        loop {
            let since = Instant::now();
            match self.look_at(most).await {
                Err(e) if most > 1 && self.may_be_an_alert(&e, since).await => {
                    tracing::debug!(error = %e, most, act = ?self.act, "alerts are looked at in smaller batches");
                    most = (most / SMALLER_BY).max(1);
                }
                Err(e) if self.may_be_an_alert(&e, since).await => self.postpone(e).await?,
                Ok(look) if most < ALERTS_MAX && look.rows > 0 => done += look.rows,
                Ok(look) => return Ok(Look { rows: done + look.rows, ..look }),
                Err(e) => return Err(e),
            }
        }
    }

    async fn look_at(&self, most: i64) -> Result<Look, StoreError> {
        let (after_ms, except) = (self.after_ms(), self.apart());
        let row = match self.act {
            Act::Raise => self.pool.write_one(queries::ALERTS_OFFLINE, &[&after_ms, &most, &except]).await,
            Act::Escalate => self.pool.write_one(queries::ALERTS_ESCALATE, &[&after_ms, &most]).await,
        };
        match row {
            Ok(row) => Ok(Look { rows: row.cell(0)?, next: next(&row)? }),
            Err(e) if e.sqlstate() == Some(RULED) => {
                tracing::debug!(error = %e, act = ?self.act, "alerts are looked after by several statements");
                ruled::statements(&self.pool, self.act, self.after, most, &except).await
            }
            Err(e) => Err(e),
        }
    }

    /// Takes the first that is due, which fails by itself, out of the way.
    async fn postpone(&self, error: StoreError) -> Result<(), StoreError> {
        let after_ms = self.after_ms();
        match self.act {
            Act::Raise => {
                let params: Params<'_> = &[&after_ms, &1_i64, &self.apart()];
                let away = self.pool.query_one(queries::ALERTS_AWAY, params).await?;
                let spans: Vec<i64> = away.cell("spans")?;
                match spans.first() {
                    Some(span) if self.set_apart(*span) => {
                        tracing::warn!(span, %error, "an absence cannot become an alert; it is tried again in a minute");
                        Ok(())
                    }
                    _ => Err(error),
                }
            }
            Act::Escalate => {
                let postponed = self.pool.query(queries::ALERTS_POSTPONE, &[&after_ms]).await?;
                let Some(row) = postponed.first() else { return Err(error) };
                let alert: Uuid = row.cell(0)?;
                tracing::warn!(%alert, %error, "an alert cannot be escalated; it is tried again later");
                Ok(())
            }
        }
    }

    async fn may_be_an_alert(&self, error: &StoreError, since: Instant) -> bool {
        // The server process may end at an alert. If the database is away, the next connection fails in another way.
        let is_late = error.fault() == Fault::Slow || error.is_cut_off() || since.elapsed() >= LATE;
        is_late || error.fault() != Fault::Ours && blame::begins(&self.pool, error).await
    }

    fn after_ms(&self) -> i64 {
        i64::try_from(self.after.as_millis()).unwrap_or(i64::MAX)
    }

    fn apart(&self) -> Vec<i64> {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner).spans(Instant::now())
    }

    fn set_apart(&self, span: i64) -> bool {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner).add(span, Instant::now())
    }
}

fn next(row: &Row) -> Result<Option<Duration>, StoreError> {
    let next: Option<i64> = row.cell("next_ms")?;
    Ok(next.map(|ms| Duration::from_millis(ms.max(0) as u64)))
}
