//! Refills: the next deliveries of lanes that run low.

use std::time::Instant;

use super::StoreError;
use super::cell::Cells;
use super::pool::Pool;
use super::row::{Clocks, MESSAGE_BYTES_MAX, entry};
use crate::inbox::Entry;
use crate::inbox::event::Refill;

const REFILL: &str = include_str!("../../sql/queries/refill.sql");

/// Per lane of a refill: its position, the rows asked for, and the rows.
pub type Refilled = Vec<(usize, usize, Vec<Entry>)>;

/// Reads several refills by one statement; the answers are in the order of the questions.
///
/// # Errors
/// See [`StoreError`].
pub async fn refill(pool: &Pool, refills: &[Refill]) -> Result<Vec<Refilled>, StoreError> {
    let lanes = || refills.iter().flat_map(|r| r.lanes.iter().map(move |lane| (r, lane)));
    let inboxes: Vec<&str> = lanes().map(|(r, _)| &*r.inbox).collect();
    let priorities: Vec<i16> = lanes().map(|(_, l)| l.lane as i16).collect();
    let above: Vec<i64> = lanes().map(|(_, l)| l.above).collect();
    let counts: Vec<i64> = lanes().map(|(_, l)| l.rows as i64).collect();
    let snapshots: Vec<&str> = lanes().map(|(r, _)| &*r.snapshot).collect();
    let params: super::connection::Params<'_> =
        &[&inboxes, &priorities, &above, &counts, &snapshots, &MESSAGE_BYTES_MAX];
    let rows = pool.query(REFILL, params).await?;
    // They may have waited in the table since their messages were created.
    let (here, unseen) = (Instant::now(), None);
    let mut found: Vec<Vec<Entry>> = lanes().map(|_| Vec::new()).collect();
    for row in &rows {
        let place = usize::try_from(row.cell::<_, i32>("lane_no")?).ok().and_then(|no| no.checked_sub(1));
        let Some(lane) = place.and_then(|place| found.get_mut(place)) else { continue };
        lane.push(entry(row, &Clocks { database: row.cell("clock")?, here, unseen })?.1);
    }
    let mut found = found.into_iter();
    Ok(refills
        .iter()
        .map(|r| r.lanes.iter().zip(found.by_ref()).map(|(l, rows)| (l.lane, l.rows, rows)).collect())
        .collect())
}
