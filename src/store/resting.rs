//! One look for everything that the sweeps would find, while nothing happens.

use std::time::Duration;

use super::alerts::AlertTimes;
use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;
use super::presence::{LEFT_BEHIND_AFTER, SILENT_AFTER};
use super::reap::EXPIRY_GRACE;
use crate::store::sql::queries;

/// The wait until the first change is due that time alone brings about; `None` if none is known.
///
/// # Errors
/// See [`StoreError`]; a row of the user's that cannot be read is one of them.
pub(crate) async fn first_due(pool: &Pool, times: AlertTimes) -> Result<Option<Duration>, StoreError> {
    let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let (silent, left_behind) = (SILENT_AFTER.as_secs() as i64, LEFT_BEHIND_AFTER.as_secs() as i64);
    let row = pool
        .query_one(
            queries::RESTING,
            &[&ms(EXPIRY_GRACE), &ms(times.offline), &ms(times.escalate), &silent, &left_behind],
        )
        .await?;
    let due: Option<i64> = row.cell("due_ms")?;
    Ok(due.map(|ms| Duration::from_millis(ms.max(0).unsigned_abs())))
}
