//! Installs the triggers of `triggers/`, and makes the deliveries that are missing because the route trigger was
//! absent.

use super::embedded::{ROUTE, Trigger, digest};
use super::state::{Found, TriggerState};
use super::{BEGIN, roll_back};
use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::sql::queries;

/// Whether deliveries must be made for waiting messages, because the route trigger did not fire before.
pub(super) fn makes_up(found: &Found, stale: &[&'static Trigger]) -> bool {
    let routed =
        |t: &Trigger| matches!(found.trigger_state(t), TriggerState::Current | TriggerState::Outdated);
    stale.iter().any(|t| t.name == ROUTE && !routed(t))
}

/// Installs these triggers in one transaction. If the route trigger did not fire before, that transaction also makes
/// the deliveries of waiting messages: CREATE TRIGGER waits for every writer and keeps new ones out until the commit,
/// so no message is left out. Returns how many deliveries were made; `None` if none could be missing. `applied` is
/// the number of migrations that were applied before.
pub(super) async fn install(
    connection: &Connection,
    found: &Found,
    stale: &[&'static Trigger],
    applied: usize,
) -> Result<Option<u64>, StoreError> {
    if stale.is_empty() {
        return Ok(None);
    }
    let make_up = makes_up(found, stale);
    let routes = stale.iter().any(|t| t.name == ROUTE);
    match install_in_transaction(connection, stale, routes, make_up).await {
        Ok(deliveries) => Ok(make_up.then_some(deliveries)),
        Err(error) => {
            roll_back(connection).await;
            let there = match applied {
                0 => String::new(),
                n => format!(" The {n} migrations before them were applied and stay."),
            };
            Err(StoreError::refused(format!(
                "the triggers were not installed, and nothing of them remains: {error}.{there} When that is mended run \
                 `postbell migrate` again: it goes on with the triggers"
            )))
        }
    }
}

async fn install_in_transaction(
    connection: &Connection,
    stale: &[&'static Trigger],
    routes: bool,
    make_up: bool,
) -> Result<u64, StoreError> {
    connection.batch(BEGIN).await?;
    connection.batch(queries::TRIGGERS_STRAYS).await?;
    for trigger in stale {
        connection.batch(trigger.sql).await?;
        connection.execute(queries::TRIGGERS_RECORD, &[&trigger.name, &digest(trigger.sql)]).await?;
    }
    let mut deliveries = 0;
    if make_up {
        deliveries = connection.execute(queries::ADOPT_WAITING, &[]).await?;
        // If only the trigger had gone, a broker may be asleep on this database.
        connection.batch("notify postbell").await?;
    }
    if routes {
        connection.execute(queries::BROADCASTS_KNOWN, &[&make_up]).await?;
        connection.execute(queries::LOOKED, &[&make_up]).await?;
    }
    connection.batch("commit").await?;
    Ok(deliveries)
}
