//! Writes agents one by one, and finds the one whose row takes too long, cannot be read, or ends the server process: the statement
//! for all of them does the same.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::{Left, Said};
use crate::store::blame;
use crate::store::connection::{Params, WriteLimit};
use crate::store::cut_off::{ENDED, Losses};
use crate::store::error::{Fault, StoreError};
use crate::store::pool::Pool;
use crate::store::sql::queries;

/// How long one statement may take.
const TRY_WAIT: Duration = Duration::from_millis(300);
/// How long is searched. Agents that are left then are written with the next heartbeats.
const SEARCH_WAIT: Duration = Duration::from_millis(1_500);
/// The reason of an agent whose row takes too long by itself.
const TOO_SLOW: &str = "the change of its row takes too long: look for a slow trigger of agent_registry, or for a lock that is held";

/// Writes these agents. A part that takes too long is halved; the largest parts come first, so that most agents are
/// written whatever is found.
pub(super) async fn each(
    pool: &Pool,
    op: &str,
    broker: Uuid,
    names: &[&str],
    said: Said<'_>,
) -> Result<Left, StoreError> {
    let until = Instant::now() + SEARCH_WAIT;
    let (mut left, mut losses) = (Left::default(), Losses::new(Instant::now()));
    // While somebody locks the whole table, no row is to blame.
    pool.write(WriteLimit::Each(TRY_WAIT), queries::PRESENCE_OPEN, &[]).await?;
    let mut parts = VecDeque::new();
    parts.push_back(0..names.len());
    while let Some(part) = parts.pop_front() {
        let some = &names[part.clone()];
        if Instant::now() >= until || losses.are_too_many(Instant::now()) {
            left.unwritten.extend(some.iter().map(|agent| (*agent).to_owned()));
            continue;
        }
        let tried = try_part(pool, op, broker, some, said.of(part.clone())).await;
        if tried.as_ref().is_err_and(StoreError::is_cut_off) {
            losses.add(Instant::now());
        }
        match (tried, some) {
            (Ok(of_part), _) => {
                left.unwritten.extend(of_part.unwritten);
                left.refused.extend(of_part.refused);
            }
            (Err(e), [agent]) if e.may_be_of_a_row() => {
                let status = if matches!(op, "connected" | "heartbeat") { "online" } else { "offline" };
                let why = match e.fault() {
                    _ if e.is_cut_off() => ENDED.to_owned(),
                    Fault::Slow => TOO_SLOW.to_owned(),
                    _ => e.to_string(),
                };
                // Nobody else's presence waits for the note.
                let note: Params<'_> = &[agent, &status, &why];
                if let Err(e) = pool.write(WriteLimit::Each(TRY_WAIT), queries::PRESENCE_SLOW, note).await {
                    tracing::debug!(error = %e, "an agent whose row is not written could not be noted");
                }
                left.unwritten.push((*agent).to_owned());
                left.refused.push(((*agent).to_owned(), why));
            }
            (Err(e), _) if e.may_be_of_a_row() => parts.extend(halves(part)),
            (Err(e), _) => return Err(e),
        }
    }
    Ok(left)
}

async fn try_part(
    pool: &Pool,
    op: &str,
    broker: Uuid,
    names: &[&str],
    said: Said<'_>,
) -> Result<Left, StoreError> {
    let Said { environments, capabilities, versions, reasons } = said;
    let brokers = [broker];
    let params: Params<'_> =
        &[&op, &brokers.as_slice(), &names, &environments, &capabilities, &versions, &reasons];
    Left::of_each(&pool.write(WriteLimit::Each(TRY_WAIT), queries::PRESENCE_EACH, params).await?)
}

/// Whether the agents are written one by one after this: it took too long, the process ended that wrote them, or see
/// [`blame`].
pub(super) async fn begins(pool: &Pool, e: &StoreError) -> bool {
    e.fault() == Fault::Slow || e.is_cut_off() || blame::begins(pool, e).await
}

fn halves(part: Range<usize>) -> [Range<usize>; 2] {
    let middle = part.start + part.len() / 2;
    [part.start..middle, middle..part.end]
}
