//! Refills: the next deliveries of lanes that run low.
//!
//! One statement reads several lanes, and only payloads that are small for certain. The others are read after it, inbox by
//! inbox ([`Refilled::finish`]), so that what is dear for one agent costs no other one's time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Row;
use uuid::Uuid;

use super::StoreError;
use super::cell::Cells;
use super::payload::{self, NAMES_BYTES_MAX, TEXT_BYTES_MAX, Text, Wary, Weighed};
use super::pool::Pool;
use super::row::{Clocks, Content, entry};
use crate::inbox::event::Refill;
use crate::inbox::{Entry, Unfit};

const REFILL: &str = include_str!("../../sql/queries/refill.sql");

/// Payloads that are read at once; each may be a megabyte of text.
const GROUP_ROWS: usize = 16;
/// And what they may take in the table, all together.
const GROUP_STORED_BYTES: usize = 256 * 1024;
/// A lane that has so much text has enough for now.
const LANE_BYTES: usize = 2 * 1024 * 1024;
/// An inbox that has been read for so long lets others have their turn; each of its lanes gets on by a group.
const TURN: Duration = Duration::from_millis(250);

/// A statement that failed after so long may have had rows that are dear.
const LATE: Duration = Duration::from_secs(3);

/// Per lane of a refill: its position, the rows asked for, and the rows.
pub type Lanes = Vec<(usize, usize, Vec<Entry>)>;

/// What a refill found of one inbox.
#[derive(Debug)]
pub struct Refilled {
    /// Whose.
    pub inbox: Arc<str>,
    lanes: Vec<(usize, usize, Vec<Found>)>,
}

#[derive(Debug)]
struct Found {
    entry: Entry,
    /// The row, where its payload is still to be read.
    left: Option<Left>,
}

#[derive(Debug)]
struct Left {
    row: Row,
    clocks: Clocks,
    stored: usize,
}

/// Reads several refills by one statement; the answers are in the order of the questions.
///
/// # Errors
/// See [`StoreError`].
pub async fn refill(pool: &Pool, refills: &[Refill], wary: &Wary) -> Result<Vec<Refilled>, StoreError> {
    let since = Instant::now();
    match attempt(pool, refills, wary.light_bytes(since)).await {
        Err(e) if !wary.is_wary(since) && (payload::may_be_a_row(&e) || since.elapsed() >= LATE) => {
            tracing::warn!(error = %e, "reading on failed; each payload is read by itself for a while");
            wary.warn(Instant::now());
            attempt(pool, refills, 0).await
        }
        done => done,
    }
}

async fn attempt(pool: &Pool, refills: &[Refill], light: i32) -> Result<Vec<Refilled>, StoreError> {
    let lanes = || refills.iter().flat_map(|r| r.lanes.iter().map(move |lane| (r, lane)));
    let inboxes: Vec<&str> = lanes().map(|(r, _)| &*r.inbox).collect();
    let priorities: Vec<i16> = lanes().map(|(_, l)| l.lane as i16).collect();
    let above: Vec<i64> = lanes().map(|(_, l)| l.above).collect();
    let counts: Vec<i64> = lanes().map(|(_, l)| l.rows as i64).collect();
    let snapshots: Vec<&str> = lanes().map(|(r, _)| &*r.snapshot).collect();
    let params: super::connection::Params<'_> =
        &[&inboxes, &priorities, &above, &counts, &snapshots, &light, &NAMES_BYTES_MAX];
    let mut found: Vec<Vec<Found>> = lanes().map(|_| Vec::new()).collect();
    let mut weighed = Weighed::default();
    pool.query_each(REFILL, params, |row| {
        let place = usize::try_from(row.cell::<_, i32>("lane_no")?).ok().and_then(|no| no.checked_sub(1));
        let Some(lane) = place.and_then(|place| found.get_mut(place)) else { return Ok(()) };
        lane.push(Found::of(row, &mut weighed)?);
        Ok(())
    })
    .await?;
    let mut found = found.into_iter();
    Ok(refills
        .iter()
        .map(|r| Refilled {
            inbox: r.inbox.clone(),
            lanes: r.lanes.iter().zip(found.by_ref()).map(|(l, rows)| (l.lane, l.rows, rows)).collect(),
        })
        .collect())
}

impl Found {
    fn of(row: Row, weighed: &mut Weighed) -> Result<Self, StoreError> {
        // They may have waited in the table since their messages were created.
        let clocks = Clocks { database: row.cell("clock")?, here: Instant::now(), unseen: None };
        let Some(stored) = row.cell::<_, Option<i32>>("stored")? else {
            let sentence = format!("its names and keys have more than {NAMES_BYTES_MAX} bytes");
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
    /// Whether payloads are still to be read, which may take long.
    pub fn is_unfinished(&self) -> bool {
        self.lanes.iter().any(|(_, _, rows)| rows.iter().any(|found| found.left.is_some()))
    }

    /// Reads them, as many as fit into this inbox's turn; what is left then is left in the table still. `one_by_one`: a group
    /// took too long.
    ///
    /// # Errors
    /// See [`StoreError`]: the database did not answer.
    pub async fn finish(&mut self, pool: &Pool, one_by_one: bool) -> Result<(), StoreError> {
        let until = Instant::now() + TURN;
        for (_, _, rows) in &mut self.lanes {
            let mut bytes = 0;
            loop {
                let group = group(rows, if one_by_one { 1 } else { GROUP_ROWS });
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

    /// The lanes as they are now.
    pub fn into_lanes(self) -> Lanes {
        let entries = |rows: Vec<Found>| rows.into_iter().map(|found| found.entry).collect();
        self.lanes.into_iter().map(|(lane, asked, rows)| (lane, asked, entries(rows))).collect()
    }
}

/// The next that are to be read, one at least if there is one.
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

/// Reads these, and says how much text they have.
async fn read(pool: &Pool, rows: &mut Vec<Found>, group: &[usize]) -> Result<usize, StoreError> {
    let messages: Vec<Uuid> = group.iter().map(|at| rows[*at].entry.message_id).collect();
    let mut texts = payload::read(pool, &messages, TEXT_BYTES_MAX).await?;
    let mut bytes = 0;
    for at in group {
        let found = &mut rows[*at];
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
    // One whose message is gone has gone itself by now.
    let mut at = 0;
    rows.retain(|found| {
        at += 1;
        !(group.contains(&(at - 1)) && found.entry.is_left())
    });
    Ok(bytes)
}
