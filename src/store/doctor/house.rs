//! The parts that Postbell installed, and the rights that this role has on them.

use super::Check;
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::drift::{self, Difference, differences};
use crate::store::error::StoreError;
use crate::store::migrate::{SchemaState, status, version_wanted};
use crate::store::rights;
use crate::store::sql::queries;
use crate::store::unlogged;
use postbell_engine::inbox::UNSEEN;

/// Messages without a delivery are counted up to here.
const UNROUTED_COUNTED_MAX: i64 = 10_000;

/// The schema's version, each part that has drifted, and the triggers.
pub(super) async fn schema(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let status = status(connection).await?;
    let refusal = status.state.refusal();
    let version = format!("version {}, as this postbell needs it", version_wanted());
    Ok(match (&status.state, refusal) {
        (SchemaState::Drifted(_) | SchemaState::Current | SchemaState::TriggersStale(_), refusal) => {
            let differences = differences(connection).await?;
            let mut checks: Vec<_> =
                differences.iter().filter(|d| d.needed.kind != "trigger").map(drifted).collect();
            if checks.is_empty() {
                checks.push(Check::ok("schema", version));
            }
            match (&status.state, refusal) {
                (SchemaState::TriggersStale(_), Some(sentence)) => {
                    checks.push(Check::fail("triggers", sentence))
                }
                (SchemaState::Current, _) => {
                    let triggers = status.lines.iter().filter(|l| l.kind == "trigger");
                    let names: Vec<_> = triggers.map(|l| l.name.as_str()).collect();
                    checks.push(Check::ok(
                        "triggers",
                        format!("{} are installed and enabled", names.join(", ")),
                    ));
                }
                _ => {
                    let triggers = differences.iter().filter(|d| d.needed.kind == "trigger");
                    checks.extend(triggers.map(|d| Check { check: "triggers", ..drifted(d) }));
                }
            }
            checks
        }
        (_, Some(sentence)) => vec![Check::fail("schema", sentence)],
        (_, None) => vec![Check::ok("schema", version)],
    })
}

fn drifted(difference: &Difference) -> Check {
    let sentence = difference.sentence();
    if difference.is_only_slow() {
        return Check::warn(
            "schema",
            format!("{sentence}, so that old messages are searched for one by one: {}", difference.way_out()),
        );
    }
    match difference.cure().is_some() || difference.needed.kind == "trigger" {
        true => Check::fail("schema", format!("{sentence}: run `postbell migrate`, which mends it")),
        false => Check::fail("schema", format!("{sentence}: {}", difference.way_out())),
    }
}

/// Tables that a crash would empty.
pub(super) async fn unlogged(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let warnings = unlogged::warnings(connection).await?;
    if warnings.is_empty() {
        return Ok(vec![Check::ok("tables", "each outlives a crash of the server")]);
    }
    Ok(warnings.into_iter().map(|sentence| Check::warn("tables", sentence)).collect())
}

/// Messages without a delivery, because no trigger saw them, and deliveries whose messages cannot be seen.
pub(super) async fn unrouted(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let row = connection.query_one(queries::DOCTOR_UNROUTED, &[&UNROUTED_COUNTED_MAX, &UNSEEN]).await?;
    let (unrouted, noted): (i64, i64) = (row.cell("unrouted")?, row.cell("noted")?);
    let (inherited, unseen): (i64, i64) = (row.cell("inherited")?, row.cell("unseen")?);
    let more = |n: i64| if n >= UNROUTED_COUNTED_MAX { " or more" } else { "" };
    let mut checks = Vec::new();
    let coming = if row.cell("looks")? { unrouted + noted } else { noted };
    if coming > 0 {
        checks.push(Check::warn(
            "deliveries",
            format!(
                "{coming}{} messages were written while triggers did not fire, and wait without a delivery: a running broker \
                 makes their deliveries within seconds; if the number stays, look at its log",
                more(coming)
            ),
        ));
    } else if unrouted > 0 {
        let some: Vec<String> = row.cell("some")?;
        checks.push(Check::warn(
            "deliveries",
            format!(
                "{unrouted}{} messages wait and have no delivery ({}), and no broker looks for them, since no trigger was \
                 touched: somebody deleted their deliveries, or set them back to pending past the triggers; `select \
                 postbell.look_at_all()` makes deliveries for them",
                more(unrouted),
                some.join(", ")
            ),
        ));
    }
    let left: i64 = row.cell("left_alone")?;
    if left > 0 {
        let since: Option<String> = row.cell("left_since")?;
        checks.push(Check::fail(
            "deliveries",
            format!(
                "{left}{} messages, the first of {}, were left to a broker that has died since, and wait to be routed: start a \
                 broker, which routes them at once",
                more(left),
                since.unwrap_or_default()
            ),
        ));
    }
    if inherited > 0 {
        checks.push(Check::fail(
            "deliveries",
            format!(
                "{inherited}{} messages wait in tables that inherit from agent_messages, and no broker delivers them: insert \
                 them into agent_messages",
                more(inherited)
            ),
        ));
    }
    if unseen > 0 {
        checks.push(Check::fail(
            "deliveries",
            format!(
                "{unseen}{} deliveries wait whose messages this role cannot see: row level security hides them, or they were \
                 deleted past the triggers; the broker looks for them again and again",
                more(unseen)
            ),
        ));
    }
    if checks.is_empty() {
        checks.push(Check::ok("deliveries", "every message that waits has its deliveries"));
    }
    Ok(checks)
}

/// Tables that inherit from agent_messages.
pub(super) async fn heirs(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    Ok(drift::heirs(connection).await?.into_iter().map(|sentence| Check::fail("schema", sentence)).collect())
}

/// Triggers and rules of somebody's on Postbell's own tables.
pub(super) async fn foreign(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    Ok(drift::foreign(connection)
        .await?
        .into_iter()
        .map(|sentence| Check::warn("schema", sentence))
        .collect())
}

/// Rights on the tables, and whether row level security hides rows from the broker.
pub(super) async fn rights(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let mut checks: Vec<_> = rights::lacking(connection)
        .await?
        .iter()
        .map(|right| Check::fail("rights", format!("{}: {}", right.sentence(), right.way_out())))
        .collect();
    let (hidden, role) = rights::hidden(connection).await?;
    checks.extend(hidden.iter().map(|sentence| Check::fail("rights", sentence.clone())));
    // If there is no role, there is no table yet, and another check says so.
    if let (true, Some(role)) = (checks.is_empty(), role) {
        checks.push(Check::ok("rights", format!("{role} may do what the broker does, and sees every row")));
    }
    Ok(checks)
}
