//! Publishing: messages that agents send through the broker, many by one insert.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::cell::Cells;
use super::error::StoreError;
use super::pool::Pool;
use crate::protocol::frame::{EVERYBODY, Send};

const PUBLISH: &str = include_str!("../../sql/queries/publish.sql");
const FIRST: &str = include_str!("../../sql/queries/publish_first.sql");

/// A message to insert.
#[derive(Debug)]
pub struct Outgoing {
    /// Its id, if it is the first with its dedupe key.
    pub id: Uuid,
    /// The agent that sends it.
    pub from: std::sync::Arc<str>,
    /// What it asked for.
    pub send: Send,
}

/// Inserts a batch in one transaction and says, in the same order, under which id each message is known: its own,
/// or that of the first message with the same sender and dedupe key. When this returns it is committed.
///
/// # Errors
/// See [`StoreError`]; then none is inserted, or it is not known whether all are.
pub async fn publish(pool: &Pool, batch: &[Outgoing]) -> Result<Vec<Uuid>, StoreError> {
    macro_rules! column {
        ($o:ident => $value:expr) => {
            batch.iter().map(|$o| $value).collect::<Vec<_>>()
        };
    }
    let ids = column!(o => o.id);
    let senders = column!(o => &*o.from);
    let recipients = column!(o => o.send.to.as_deref().filter(|to| *to != EVERYBODY));
    let topics = column!(o => o.send.topic.as_deref());
    let environments = column!(o => o.send.environment.as_deref());
    let groups = column!(o => o.send.group.as_deref());
    let instances = column!(o => o.send.to_instance.as_deref());
    let ordering_keys = column!(o => o.send.ordering_key.as_deref());
    let types = column!(o => o.send.message_type.as_str());
    let payloads = column!(o => o.send.payload.get());
    let priorities = column!(o => i32::from(o.send.priority.get()));
    let delays = column!(o => o.send.delay_ms.map(|ms| ms as i64));
    let ttls = column!(o => o.send.ttl_ms.map(|ms| ms as i64));
    let keys = column!(o => o.send.dedupe_key.as_deref());
    let correlations = column!(o => o.send.correlation_id.as_deref());
    let headers = column!(o => o.send.headers.as_ref().map(|h| h.get()));
    let rows = pool
        .query(
            PUBLISH,
            &[
                &ids,
                &senders,
                &recipients,
                &types,
                &payloads,
                &priorities,
                &delays,
                &ttls,
                &keys,
                &correlations,
                &headers,
                &topics,
                &environments,
                &groups,
                &instances,
                &ordering_keys,
            ],
        )
        .await?;
    if rows.len() == batch.len() {
        return Ok(ids);
    }
    let new: HashSet<Uuid> = rows.iter().map(|row| row.cell(0)).collect::<Result<_, _>>()?;
    firsts(pool, batch, &new).await
}

async fn firsts(pool: &Pool, batch: &[Outgoing], new: &HashSet<Uuid>) -> Result<Vec<Uuid>, StoreError> {
    let known: Vec<&Outgoing> = batch.iter().filter(|o| !new.contains(&o.id)).collect();
    let senders: Vec<&str> = known.iter().map(|o| &*o.from).collect();
    let keys: Vec<Option<&str>> = known.iter().map(|o| o.send.dedupe_key.as_deref()).collect();
    let rows = pool.query(FIRST, &[&senders, &keys]).await?;
    let mut firsts: HashMap<Uuid, Uuid> = HashMap::new();
    for row in &rows {
        let place = row.count("n")? as usize;
        if let Some(outgoing) = place.checked_sub(1).and_then(|at| known.get(at)) {
            firsts.insert(outgoing.id, row.cell("message_id")?);
        }
    }
    // A first message that retention removed this instant: the second is new again, and the sender may repeat.
    let gone =
        || StoreError::unavailable("the first message with this dedupe_key was just removed; send again");
    batch
        .iter()
        .map(|o| if new.contains(&o.id) { Ok(o.id) } else { firsts.get(&o.id).copied().ok_or_else(gone) })
        .collect()
}
