//! Writes agents one by one, and finds the one whose row takes too long, cannot be read, or ends the server process: the statement
//! for all of them does the same.

use std::ops::Range;

use tokio::time::Instant;
use tokio_postgres::Row;
use uuid::Uuid;

use super::{Left, Said};
use crate::store::connection::{Params, WriteLimit};
use crate::store::cut_off::ENDED;
use crate::store::error::{Fault, StoreError};
use crate::store::halves::{Halving, SearchTime};
use crate::store::pool::Pool;
use crate::store::sql::queries;

/// The reason of an agent whose row takes too long by itself.
const TOO_SLOW: &str = "the change of its row takes too long: look for a slow trigger or policy of agent_registry, or for a lock that is held";

/// The most agents that one statement of a sweep writes, so that only a row at fault takes the time of a try.
const PART_ROWS: usize = 50;

/// A change of many agents, written one by one.
#[derive(Clone, Copy)]
pub(super) enum RowChange<'a> {
    /// `op` happened to these agents of a broker.
    Of { op: &'a str, broker: Uuid, said: Said<'a> },
    /// Agents that were silent for so many seconds are offline.
    Silent {
        after: i64,
        /// The same for agents that no living broker has.
        left_behind: i64,
    },
    /// These brokers are gone.
    Gone(&'a [Uuid]),
}

impl RowChange<'_> {
    /// The status that is written, for an operator.
    fn status(&self) -> &'static str {
        match self {
            Self::Of { op: "connected" | "heartbeat", .. } => "online",
            _ => "offline",
        }
    }

    /// Whether the agents are asked whether the change is theirs.
    fn is_sweep(&self) -> bool {
        !matches!(self, Self::Of { .. })
    }

    /// Writes a part of the agents.
    async fn write(
        &self,
        pool: &Pool,
        limit: WriteLimit,
        names: &[&str],
        part: Range<usize>,
    ) -> Result<Vec<Row>, StoreError> {
        let names = &names[part.clone()];
        match *self {
            Self::Of { op, broker, said } => {
                let Said { environments, capabilities, versions, reasons } = said.of(part);
                let brokers = [broker];
                let params: Params<'_> =
                    &[&op, &brokers.as_slice(), &names, &environments, &capabilities, &versions, &reasons];
                pool.write(limit, queries::PRESENCE_EACH, params).await
            }
            Self::Silent { after, left_behind } => {
                let params: Params<'_> = &[&after, &left_behind, &names, &(PART_ROWS as i64)];
                pool.write(limit, queries::PRESENCE_SILENT_EACH, params).await
            }
            Self::Gone(brokers) => {
                let params: Params<'_> = &[&brokers, &names, &(PART_ROWS as i64)];
                pool.write(limit, queries::BROKER_SWEEP_EACH, params).await
            }
        }
    }
}

/// The result of a search.
#[derive(Debug, Default)]
pub(super) struct Searched {
    /// How many agents a sweep wrote.
    pub(super) offline: u64,
    /// Agents that are not written.
    pub(super) left: Left,
    /// Agents that had no turn before the time was over.
    pub(super) untried: Vec<String>,
}

/// Writes these agents.
pub(super) async fn each(
    pool: &Pool,
    change: RowChange<'_>,
    names: &[&str],
    time: SearchTime,
) -> Result<Searched, StoreError> {
    let mut search = Halving::among(names.len(), time, Instant::now());
    let limit = WriteLimit::Each(time.a_try);
    let (mut offline, mut left) = (0, Left::default());
    // While somebody locks the whole table, no row is to blame.
    pool.write(limit, queries::PRESENCE_OPEN, &[]).await?;
    while let Some(part) = search.next(Instant::now()) {
        match change.write(pool, limit, names, part.clone()).await {
            Ok(rows) => {
                offline += left.add_each(&rows)?;
                if change.is_sweep() && rows.len() >= PART_ROWS {
                    // Others of the part may be left.
                    search.halve(&part);
                }
            }
            Err(e) => {
                if let Some(e) = search.failed(&part, e, Instant::now())? {
                    let agent = names[part.start];
                    let why = why(&e);
                    note(pool, limit, agent, change.status(), &why).await;
                    left.unwritten.push(agent.to_owned());
                    left.refused.push((agent.to_owned(), why));
                }
            }
        }
    }
    let untried = search.untried().map(|n| names[n].to_owned()).collect();
    Ok(Searched { offline, left, untried })
}

/// Why a row is not written, which met this error alone.
fn why(e: &StoreError) -> String {
    match e.fault() {
        _ if e.is_cut_off() => ENDED.to_owned(),
        Fault::Slow => TOO_SLOW.to_owned(),
        _ => e.to_string(),
    }
}

/// Tells an operator of an agent. Nobody else's presence waits for the note.
async fn note(pool: &Pool, limit: WriteLimit, agent: &str, status: &str, why: &str) {
    let params: Params<'_> = &[&agent, &status, &why];
    if let Err(e) = pool.write(limit, queries::PRESENCE_SLOW, params).await {
        tracing::debug!(error = %e, "an agent whose row is not written could not be noted");
    }
}
