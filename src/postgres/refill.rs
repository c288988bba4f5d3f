//! Refills: the next deliveries of lanes that run low, and of ordering keys that have lanes of their own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio_postgres::Row;

use super::StoreError;
use super::cell::Cells;
use super::connection::Params;
use super::pool::Pool;
use super::row::{Clocks, MESSAGE_BYTES_MAX, entry};
use crate::inbox::Entry;
use crate::inbox::event::{KeyRows, Refill};
use crate::inbox::lane::REFILL_ROWS_MAX;
use crate::message::REPLIES;

const REFILL: &str = include_str!("../../sql/queries/refill.sql");
const REFILL_KEY: &str = include_str!("../../sql/queries/refill_key.sql");

/// At how many rows of a lane one statement looks: what ordering keys leave out is walked in steps, so that no other inbox
/// waits for that.
pub const SCAN_ROWS_MAX: i64 = 20_000;

const _: () = assert!(SCAN_ROWS_MAX as usize > REFILL_ROWS_MAX);

/// The answer to one refill.
#[derive(Debug, Default)]
pub struct Refilled {
    /// Per lane: its position, the rows asked for, and the rows. Where the statement looked at as many rows as it may, it
    /// was asked for as many as it brings.
    pub lanes: Vec<(usize, usize, Vec<Entry>)>,
    /// Per key.
    pub keys: Vec<KeyRows>,
}

/// Reads several refills by one statement, and one more where ordering keys are read; the answers are in the order of the
/// questions.
///
/// # Errors
/// See [`StoreError`].
pub async fn refill(pool: &Pool, refills: &[Refill]) -> Result<Vec<Refilled>, StoreError> {
    let mut lanes = read_lanes(pool, refills).await?.into_iter();
    let mut keys = read_keys(pool, refills).await?.into_iter();
    let answer = |refill: &Refill| Refilled {
        lanes: refill
            .lanes
            .iter()
            .zip(lanes.by_ref())
            .map(|(l, found)| (l.lane, if found.is_cut { found.rows.len() } else { l.rows }, found.rows))
            .collect(),
        keys: refill
            .keys
            .iter()
            .zip(keys.by_ref())
            .map(|(k, found)| (k.key.clone(), k.rows, found.rows))
            .collect(),
    };
    Ok(refills.iter().map(answer).collect())
}

#[derive(Default)]
struct Found {
    rows: Vec<Entry>,
    is_cut: bool,
}

async fn read_lanes(pool: &Pool, refills: &[Refill]) -> Result<Vec<Found>, StoreError> {
    let lanes = || refills.iter().flat_map(|r| r.lanes.iter().map(move |lane| (r, lane)));
    let inboxes: Vec<&str> = lanes().map(|(r, _)| &*r.inbox).collect();
    let priorities: Vec<i16> = lanes().map(|(_, l)| l.lane as i16).collect();
    let above: Vec<i64> = lanes().map(|(_, l)| l.above).collect();
    let counts: Vec<i64> = lanes().map(|(_, l)| l.rows as i64).collect();
    let snapshots: Vec<&str> = lanes().map(|(r, _)| &*r.snapshot).collect();
    let mut passed: Vec<String> = Vec::new();
    let mut passed_of = Vec::with_capacity(inboxes.len());
    for refill in refills {
        let place = (!refill.passed.is_empty()).then(|| {
            passed.push(object(&refill.passed));
            passed.len() as i32
        });
        // Replies wait for no key.
        passed_of.extend(refill.lanes.iter().map(|l| place.filter(|_| l.lane != REPLIES)));
    }
    if inboxes.is_empty() {
        return Ok(Vec::new());
    }
    let params: Params<'_> = &[
        &inboxes,
        &priorities,
        &above,
        &counts,
        &snapshots,
        &MESSAGE_BYTES_MAX,
        &passed_of,
        &passed,
        &SCAN_ROWS_MAX,
    ];
    sorted(&pool.query(REFILL, params).await?, inboxes.len())
}

async fn read_keys(pool: &Pool, refills: &[Refill]) -> Result<Vec<Found>, StoreError> {
    let keys = || refills.iter().flat_map(|r| r.keys.iter().map(move |key| (r, key)));
    let inboxes: Vec<&str> = keys().map(|(r, _)| &*r.inbox).collect();
    if inboxes.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = keys().map(|(_, k)| &*k.key).collect();
    let above: Vec<i64> = keys().map(|(_, k)| k.above).collect();
    let counts: Vec<i64> = keys().map(|(_, k)| k.rows as i64).collect();
    let snapshots: Vec<&str> = keys().map(|(r, _)| &*r.snapshot).collect();
    let params: Params<'_> = &[&inboxes, &names, &above, &counts, &snapshots, &MESSAGE_BYTES_MAX];
    sorted(&pool.query(REFILL_KEY, params).await?, inboxes.len())
}

/// The rows by what was asked.
fn sorted(rows: &[Row], asked: usize) -> Result<Vec<Found>, StoreError> {
    // They may have waited in the table since their messages were created.
    let (here, unseen) = (Instant::now(), None);
    let mut found: Vec<Found> = (0..asked).map(|_| Found::default()).collect();
    for row in rows {
        let place = usize::try_from(row.cell::<_, i32>("lane_no")?).ok().and_then(|no| no.checked_sub(1));
        let Some(of) = place.and_then(|place| found.get_mut(place)) else { continue };
        of.rows.push(entry(row, &Clocks { database: row.cell("clock")?, here, unseen })?.1);
        of.is_cut |= row.cell::<_, bool>("is_cut")?;
    }
    Ok(found)
}

/// An object of which these are the keys: what Postgres looks up by bisection.
fn object(keys: &[Arc<str>]) -> String {
    let keys: BTreeMap<&str, u8> = keys.iter().map(|key| (&**key, 0)).collect();
    serde_json::to_string(&keys).unwrap_or_default()
}
