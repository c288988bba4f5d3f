//! The tail: reads new deliveries by transaction, as a replica reads a log.
//!
//! Each round is one statement with one snapshot. Rows are new if this snapshot shows them and the last round's did
//! not: rows of transactions from the last xmax on, and of those that were in progress then. So each row is read
//! once, however late its transaction commits, and whatever notification was lost.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

use futures_util::TryStreamExt;
use uuid::Uuid;

use super::cell::Cells;
use super::connection::{Connection, Params, Target};
use super::error::StoreError;
use super::payload::blamed::find;
use super::payload::{NAMES_BYTES_MAX, Wary, Weighed};
use super::row::{Clocks, Content, entry};
use crate::store::sql::queries;
use postbell_engine::inbox::event::Snapshot;
use postbell_engine::inbox::{Entry, Unfit};

/// The most rows that are handed over at once.
const CHUNK_ROWS: usize = 512;
/// The most bytes that are handed over at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// The position of the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    snapshot: Snapshot,
    xmax: u64,
    in_progress: Vec<u64>,
    /// The time at which its statement was sent. Later rows were not ready then.
    read_at: Instant,
}

/// The result of a whole round.
#[derive(Debug)]
pub(crate) struct Round {
    /// The round's snapshot. Everything visible in it was handed over.
    pub snapshot: Snapshot,
    /// The time at which the round's statement was sent.
    pub started_at: Instant,
    /// The transactions that the snapshot shows in progress.
    pub in_progress: Vec<u64>,
    /// How many deliveries the mesh ever made, which its sequence counts.
    pub made: u64,
    /// The number of new rows, including scheduled ones.
    pub rows: u64,
    /// The time of the earliest scheduled one among them.
    pub next_due: Option<Instant>,
}

impl Cursor {
    /// A cursor that starts now: rows that exist already are left to refills.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) async fn start(connection: &Connection) -> Result<Self, StoreError> {
        let read_at = Instant::now();
        let row = connection.query_one("select pg_current_snapshot()::text", &[]).await?;
        Self::parse(row.cell(0)?, read_at)
    }

    /// Makes deliveries that were restored from another cluster's dump visible to this cluster's tail. Returns how
    /// many.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) async fn adopt_restored(connection: &Connection) -> Result<u64, StoreError> {
        connection.execute(queries::TAIL_RESTORED, &[]).await
    }

    /// Whether this cursor is ahead of the server. Such a cursor comes from another cluster, or from transactions
    /// that a failover lost, and would skip whatever the server writes until the server has caught up.
    pub(crate) fn is_ahead_of(&self, server: &Self) -> bool {
        self.xmax > server.xmax
    }

    /// Reads `xmin:xmax:xip,xip,…`.
    fn parse(text: &str, read_at: Instant) -> Result<Self, StoreError> {
        let mut parts = text.splitn(3, ':').skip(1);
        let number = |s: &str| s.parse::<u64>().ok();
        let xmax = parts.next().and_then(number);
        let list = parts.next().unwrap_or("");
        let in_progress: Option<Vec<u64>> = list.split(',').filter(|s| !s.is_empty()).map(number).collect();
        match (xmax, in_progress) {
            (Some(xmax), Some(in_progress)) => Ok(Self { snapshot: text.into(), xmax, in_progress, read_at }),
            _ => Err(StoreError::refused(format!("the server's snapshot {text:?} is not xmin:xmax:list"))),
        }
    }

    /// Runs a round and hands its rows to `bring` in chunks. The cursor moves only when the round is whole; `brought`
    /// tells whether rows were handed over, in case the round breaks off.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) async fn round<F>(
        &mut self,
        connection: &Connection,
        (broker, wary): (Uuid, &Wary),
        bring: impl Fn(Vec<(Arc<str>, Entry)>) -> F,
        brought: &mut bool,
    ) -> Result<Round, StoreError>
    where
        F: Future<Output = ()>,
    {
        let started_at = Instant::now();
        let (xmax, in_progress) = self.bounds();
        let (light, blamed) = (wary.light_bytes(started_at), wary.blamed(started_at));
        let params: Params<'_> = &[&xmax, &in_progress, &broker, &light, &NAMES_BYTES_MAX, &blamed.ids()];
        let stream = connection.query_stream(queries::TAIL, params).await?;
        let mut stream = pin!(stream);
        let unseen = Some(self.read_at);
        let mut clocks = Clocks { database: SystemTime::now(), here: started_at, unseen };
        let (mut next, mut made, mut rows, mut next_due) = (None, 0, 0, None);
        let (mut chunk, mut chunk_bytes, mut weighed) = (Vec::new(), 0, Weighed::default());
        while let Some(row) = stream.try_next().await? {
            if let Some(snapshot) = row.cell::<_, Option<&str>>("snapshot")? {
                next = Some(Self::parse(snapshot, started_at)?);
                made = row.cell::<_, Option<i64>>("made")?.unwrap_or_default().unsigned_abs();
                clocks = Clocks { database: row.cell("clock")?, here: Instant::now(), unseen };
                continue;
            }
            rows += 1;
            if let Some(due_at) = row.cell::<_, Option<SystemTime>>("due_at")? {
                let wait = due_at.duration_since(clocks.database).unwrap_or(Duration::ZERO);
                let due = clocks.here.checked_add(wait);
                next_due = due.into_iter().chain(next_due).min();
                continue;
            }
            weighed.add(&row)?;
            let unfit = match blamed.unfit(&row)? {
                None if row.cell("unseen")? => Some(Unfit::Unseen),
                unfit => unfit,
            };
            let content = unfit.map_or(Content::InRow, Content::Unfit);
            let (inbox, entry) = entry(&row, &clocks, content)?;
            chunk_bytes += entry.cost_bytes();
            chunk.push((inbox, entry));
            if chunk.len() >= CHUNK_ROWS || chunk_bytes >= CHUNK_BYTES {
                *brought = true;
                chunk_bytes = 0;
                bring(std::mem::take(&mut chunk)).await;
            }
        }
        let Some(next) = next else {
            return Err(StoreError::unavailable("the tail's statement gave no snapshot"));
        };
        if !chunk.is_empty() {
            *brought = true;
            bring(chunk).await;
        }
        *self = next;
        let (snapshot, in_progress) = (self.snapshot.clone(), self.in_progress.clone());
        Ok(Round { snapshot, started_at, in_progress, made, rows, next_due })
    }

    /// Looks for messages that cannot be read, among those that the next round would bring.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) async fn look_for_blame(
        &self,
        target: &Target,
        (broker, wary): (Uuid, &Wary),
    ) -> Result<(), StoreError> {
        let (xmax, in_progress) = self.bounds();
        let params: Params<'_> =
            &[&xmax, &in_progress, &broker, &0_i32, &NAMES_BYTES_MAX, &None::<Vec<Uuid>>];
        let rows = Connection::open(target).await?.query(queries::TAIL, params).await?;
        let ids: Result<Vec<Option<Uuid>>, StoreError> =
            rows.iter().map(|row| row.cell("message_id")).collect();
        let ids: Vec<Uuid> = ids?.into_iter().flatten().collect();
        find(target, wary, &ids).await
    }

    /// The last xmax, and the transactions in progress then, as text.
    fn bounds(&self) -> (String, Vec<String>) {
        (self.xmax.to_string(), self.in_progress.iter().map(u64::to_string).collect())
    }
}

/// Writes whether producers should ring for this broker.
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn set_armed(connection: &Connection, broker: Uuid, armed: bool) -> Result<(), StoreError> {
    connection.execute(queries::BELL_ARM, &[&broker, &armed]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read() {
        let parse = |text| Cursor::parse(text, Instant::now());
        let cursor = parse("10:20:10,14").expect("reads");
        assert_eq!((cursor.xmax, cursor.in_progress), (20, vec![10, 14]));
        assert_eq!(parse("10:10:").expect("reads").in_progress, Vec::<u64>::new());
        assert!(parse("10:x:").is_err());
        assert!(parse("").is_err());
    }
}
