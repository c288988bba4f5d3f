//! Refills: the next deliveries of lanes that run low, and of ordering keys that have lanes of their own.
//!
//! One statement reads several lanes, and one more the keys, but only payloads that are small for certain. The other
//! payloads are read afterwards, inbox by inbox ([`Refilled::finish`]), so that one agent's large payloads cost no
//! other agent time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

use tokio_postgres::Row;
use uuid::Uuid;

use super::StoreError;
use super::cell::Cells;
use super::connection::Params;
use super::payload::blamed::{self, Blamed};
use super::payload::{self, NAMES_BYTES_MAX, TEXT_BYTES_MAX, Text, Wary, Weighed, may_be_a_row};
use super::pool::Pool;
use super::row::{Clocks, Content, entry};
use crate::store::sql::queries;
use postbell_client::message::REPLIES;
use postbell_engine::inbox::event::{KeyRows, LaneRows, Refill};
use postbell_engine::inbox::lane::REFILL_ROWS_MAX;
use postbell_engine::inbox::{Entry, Unfit};

/// The most payloads that are read at once; each may be a megabyte of text.
const GROUP_ROWS: usize = 16;
/// The most bytes in the table of the payloads that are read at once.
const GROUP_STORED_BYTES: usize = 256 * 1024;
/// A lane with this many bytes of text has enough for now.
const LANE_BYTES: usize = 2 * 1024 * 1024;
/// How long an inbox is read before others have their turn. Each lane of the inbox gets at least one group.
const TURN: Duration = Duration::from_millis(250);

/// A statement that fails after this time may have met rows that cost too much.
const LATE: Duration = Duration::from_secs(3);

/// The most rows of a lane that one statement looks at. Rows that are left out for ordering keys are passed in steps,
/// so that no other inbox waits for that.
pub(crate) const SCAN_ROWS_MAX: i64 = 20_000;

/// The result of a refill for one inbox.
#[derive(Debug)]
pub(crate) struct Refilled {
    /// The inbox that was read.
    pub inbox: Arc<str>,
    /// If the statement looked at as many rows as it may, the lane counts as asked for as many rows as came.
    lanes: Vec<(usize, Rows)>,
    keys: Vec<(Arc<str>, Rows)>,
}

/// The rows of one lane or key.
#[derive(Debug, Default)]
struct Rows {
    asked: usize,
    found: Vec<Found>,
}

#[derive(Debug)]
struct Found {
    entry: Entry,
    /// The row, if its payload must still be read.
    left: Option<Left>,
}

#[derive(Debug)]
struct Left {
    row: Row,
    clocks: Clocks,
    stored: usize,
}

const _: () = assert!(SCAN_ROWS_MAX as usize > REFILL_ROWS_MAX);

/// Reads several refills by one statement, and one more if ordering keys are read. The answers are in the order of
/// the refills.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn refill(
    pool: &Pool,
    refills: &[Refill],
    wary: &Wary,
) -> Result<Vec<Refilled>, StoreError> {
    let since = Instant::now();
    let mut done = attempt(pool, refills, wary).await;
    let is_cut_off = done.as_ref().is_err_and(StoreError::is_cut_off);
    if is_cut_off || done.as_ref().is_err_and(StoreError::is_slow) {
        // One message may be slow to read whatever is asked for of it, or the server process ends at it. If it is only a
        // payload, none is found here.
        look_for_blame(pool, refills, wary).await?;
    }
    if is_cut_off {
        done = attempt(pool, refills, wary).await;
    }
    if let Err(e) = &done
        && !wary.is_wary(since)
        && (may_be_a_row(e) || since.elapsed() >= LATE)
    {
        tracing::warn!(error = %e, "reading on failed; each payload is read by itself for a while");
        wary.warn(Instant::now());
        done = attempt(pool, refills, wary).await;
    }
    // No text was made, and it failed all the same: a message cannot be read at all.
    if let Err(e) = &done
        && e.sqlstate().is_some()
        && may_be_a_row(e)
    {
        look_for_blame(pool, refills, wary).await?;
        done = attempt(pool, refills, wary).await;
    }
    done
}

/// Looks for messages that cannot be read, among those of these refills.
async fn look_for_blame(pool: &Pool, refills: &[Refill], wary: &Wary) -> Result<(), StoreError> {
    let mut all = read_lanes(pool, refills, 0, None).await?;
    all.extend(read_keys(pool, refills, 0, None).await?);
    let found = all.iter().flat_map(|rows| &rows.found);
    let ids: Vec<Uuid> = found.map(|found| found.entry.message_id).collect();
    blamed::find(pool.target(), wary, &ids).await
}

async fn attempt(pool: &Pool, refills: &[Refill], wary: &Wary) -> Result<Vec<Refilled>, StoreError> {
    let now = Instant::now();
    let (light, blamed) = (wary.light_bytes(now), wary.blamed(now));
    let mut lanes = read_lanes(pool, refills, light, Some(&blamed)).await?.into_iter();
    let mut keys = read_keys(pool, refills, light, Some(&blamed)).await?.into_iter();
    let answer = |r: &Refill| Refilled {
        inbox: r.inbox.clone(),
        lanes: r.lanes.iter().zip(lanes.by_ref()).map(|(l, rows)| (l.lane, rows)).collect(),
        keys: r.keys.iter().zip(keys.by_ref()).map(|(k, rows)| (k.key.clone(), rows)).collect(),
    };
    Ok(refills.iter().map(answer).collect())
}

/// Without `blamed` nothing is read of any message.
async fn read_lanes(
    pool: &Pool,
    refills: &[Refill],
    light: i32,
    blamed: Option<&Blamed>,
) -> Result<Vec<Rows>, StoreError> {
    let lanes = || refills.iter().flat_map(|r| r.lanes.iter().map(move |lane| (r, lane)));
    let inboxes: Vec<&str> = lanes().map(|(r, _)| &*r.inbox).collect();
    let priorities: Vec<i16> = lanes().map(|(_, l)| l.lane as i16).collect();
    let above: Vec<i64> = lanes().map(|(_, l)| l.above.0).collect();
    let counts: Vec<i64> = lanes().map(|(_, l)| l.rows as i64).collect();
    let snapshots: Vec<&str> = lanes().map(|(r, _)| &*r.snapshot.0).collect();
    let mut passed: Vec<String> = Vec::new();
    let mut passed_of = Vec::with_capacity(inboxes.len());
    for refill in refills {
        let place = (!refill.passed.is_empty()).then(|| {
            passed.push(object(&refill.passed));
            passed.len() as i32
        });
        // Replies have no ordering key, so nothing is left out of their lane.
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
        &light,
        &NAMES_BYTES_MAX,
        &passed_of,
        &passed,
        &SCAN_ROWS_MAX,
        &blamed.map(Blamed::ids),
    ];
    let asked = lanes().map(|(_, l)| l.rows).collect();
    sorted(pool, (queries::REFILL, params), asked, blamed).await
}

/// See [`read_lanes`].
async fn read_keys(
    pool: &Pool,
    refills: &[Refill],
    light: i32,
    blamed: Option<&Blamed>,
) -> Result<Vec<Rows>, StoreError> {
    let keys = || refills.iter().flat_map(|r| r.keys.iter().map(move |key| (r, key)));
    let inboxes: Vec<&str> = keys().map(|(r, _)| &*r.inbox).collect();
    if inboxes.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = keys().map(|(_, k)| &*k.key).collect();
    let above: Vec<i64> = keys().map(|(_, k)| k.above.0).collect();
    let counts: Vec<i64> = keys().map(|(_, k)| k.rows as i64).collect();
    let snapshots: Vec<&str> = keys().map(|(r, _)| &*r.snapshot.0).collect();
    let ids = blamed.map(Blamed::ids);
    let params: Params<'_> = &[&inboxes, &names, &above, &counts, &snapshots, &light, &NAMES_BYTES_MAX, &ids];
    let asked = keys().map(|(_, k)| k.rows).collect();
    sorted(pool, (queries::REFILL_KEY, params), asked, blamed).await
}

/// Runs the statement and sorts its rows by the lane or key that asked for them.
async fn sorted(
    pool: &Pool,
    (sql, params): (&'static str, Params<'_>),
    asked: Vec<usize>,
    blamed: Option<&Blamed>,
) -> Result<Vec<Rows>, StoreError> {
    let mut all: Vec<Rows> = asked.into_iter().map(|asked| Rows { asked, found: Vec::new() }).collect();
    let mut cut = vec![false; all.len()];
    let mut weighed = Weighed::default();
    pool.query_each(sql, params, |row| {
        let place = usize::try_from(row.cell::<_, i32>("lane_no")?).ok().and_then(|no| no.checked_sub(1));
        let Some((place, rows)) = place.and_then(|place| Some((place, all.get_mut(place)?))) else {
            return Ok(());
        };
        cut[place] |= row.cell::<_, bool>("is_cut")?;
        rows.found.push(Found::of(row, &mut weighed, blamed)?);
        Ok(())
    })
    .await?;
    for (rows, _) in all.iter_mut().zip(cut).filter(|(_, is_cut)| *is_cut) {
        rows.asked = rows.found.len();
    }
    Ok(all)
}

/// An object with these keys, in which Postgres finds a key by bisection.
fn object(keys: &[Arc<str>]) -> String {
    let keys: BTreeMap<&str, u8> = keys.iter().map(|key| (&**key, 0)).collect();
    serde_json::to_string(&keys).unwrap_or_default()
}

impl Found {
    fn of(row: Row, weighed: &mut Weighed, blamed: Option<&Blamed>) -> Result<Self, StoreError> {
        // They may have waited in the table since their messages were created.
        let clocks = Clocks { database: row.cell("clock")?, here: Instant::now(), unseen: None };
        if let Some(unfit) = blamed.map(|blamed| blamed.unfit(&row)).transpose()?.flatten() {
            let (_, entry) = entry(&row, &clocks, Content::Unfit(unfit))?;
            return Ok(Self { entry, left: None });
        }
        if row.cell("unseen")? {
            let (_, entry) = entry(&row, &clocks, Content::Unfit(Unfit::Unseen))?;
            return Ok(Self { entry, left: None });
        }
        let Some(stored) = row.cell::<_, Option<i32>>("stored")? else {
            let sentence = format!("its names have more than {NAMES_BYTES_MAX} bytes");
            let (_, entry) = entry(&row, &clocks, Content::Unfit(Unfit::TooLarge(sentence)))?;
            return Ok(Self { entry, left: None });
        };
        weighed.add(&row)?;
        let (_, entry) = entry(&row, &clocks, Content::InRow)?;
        let stored = stored.unsigned_abs() as usize;
        let left = entry.is_left().then_some(Left { row, clocks, stored });
        Ok(Self { entry, left })
    }
}

impl Refilled {
    /// Whether payloads must still be read, which may take long.
    pub(crate) fn is_unfinished(&self) -> bool {
        let of_keys = self.keys.iter().map(|(_, rows)| rows);
        let mut all = self.lanes.iter().map(|(_, rows)| rows).chain(of_keys);
        all.any(|rows| rows.found.iter().any(|found| found.left.is_some()))
    }

    /// Reads these payloads, as many as fit into this inbox's turn; later ones stay unread, and a later refill reads
    /// them. `one_by_one` is set after a group took too long.
    ///
    /// # Errors
    /// See [`StoreError`]: the database did not answer.
    pub(crate) async fn finish(&mut self, pool: &Pool, one_by_one: bool) -> Result<(), StoreError> {
        let until = Instant::now() + TURN;
        let of_keys = self.keys.iter_mut().map(|(_, rows)| rows);
        for rows in self.lanes.iter_mut().map(|(_, rows)| rows).chain(of_keys) {
            let mut bytes = 0;
            loop {
                let group = group(&rows.found, if one_by_one { 1 } else { GROUP_ROWS });
                if group.is_empty() {
                    break;
                }
                bytes += read(pool, rows, &group).await?;
                if bytes >= LANE_BYTES || Instant::now() >= until {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The lanes and the keys, as they are now.
    pub(crate) fn into_rows(self) -> (Vec<LaneRows>, Vec<KeyRows>) {
        let entries = |found: Vec<Found>| found.into_iter().map(|found| found.entry).collect();
        let lane =
            |(lane, rows): (usize, Rows)| LaneRows { lane, asked: rows.asked, rows: entries(rows.found) };
        let key =
            |(key, rows): (Arc<str>, Rows)| KeyRows { key, asked: rows.asked, rows: entries(rows.found) };
        (self.lanes.into_iter().map(lane).collect(), self.keys.into_iter().map(key).collect())
    }
}

/// The next rows whose payloads are to be read; at least one if there is any.
fn group(rows: &[Found], most: usize) -> Vec<usize> {
    let mut stored = 0;
    let left = rows.iter().enumerate().filter_map(|(at, found)| Some((at, found.left.as_ref()?.stored)));
    let fits = left.take(most).take_while(|(_, bytes)| {
        let is_first = stored == 0;
        stored += bytes.max(&1);
        is_first || stored <= GROUP_STORED_BYTES
    });
    fits.map(|(at, _)| at).collect()
}

/// Reads the payloads of a group. Returns how many bytes of text they have.
async fn read(pool: &Pool, rows: &mut Rows, group: &[usize]) -> Result<usize, StoreError> {
    let messages: Vec<Uuid> = group.iter().map(|at| rows.found[*at].entry.message_id).collect();
    let mut texts = payload::read(pool, &messages, TEXT_BYTES_MAX).await?;
    let mut bytes = 0;
    for at in group {
        let found = &mut rows.found[*at];
        let (Some(left), Some(text)) = (found.left.take(), texts.remove(&found.entry.message_id)) else {
            continue;
        };
        let content = match &text {
            Text::Whole { payload, headers } => Content::Read(payload, headers.as_deref()),
            Text::Unfit(unfit) => Content::Unfit(unfit.clone()),
        };
        found.entry = entry(&left.row, &left.clocks, content)?.1;
        bytes += found.entry.cost_bytes();
    }
    // A delivery whose message is gone is gone, too, and is dropped here. The delivery counts as read, because its
    // absence says nothing of the rows behind it.
    let (came, mut at) = (rows.found.len(), 0);
    rows.found.retain(|found| {
        at += 1;
        !(group.contains(&(at - 1)) && found.entry.is_left())
    });
    rows.asked -= came - rows.found.len();
    Ok(bytes)
}
