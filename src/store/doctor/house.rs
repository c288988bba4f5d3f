//! The parts that Postbell installed, and the rights that this role has on them.

use super::Check;
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::drift::{Difference, differences};
use crate::store::error::StoreError;
use crate::store::migrate::{SchemaState, status, version_wanted};
use crate::store::rights;

const UNROUTED: &str = include_str!("../../../sql/queries/doctor_unrouted.sql");

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

/// Messages without a delivery, because no trigger saw them.
pub(super) async fn unrouted(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let row = connection.query_one(UNROUTED, &[&UNROUTED_COUNTED_MAX]).await?;
    let (unrouted, noted): (i64, i64) = (row.cell("unrouted")?, row.cell("noted")?);
    if unrouted == 0 && noted == 0 {
        return Ok(vec![Check::ok("deliveries", "every message that waits has its deliveries")]);
    }
    let more = if unrouted == UNROUTED_COUNTED_MAX { " or more" } else { "" };
    Ok(vec![Check::warn(
        "deliveries",
        format!(
            "{unrouted}{more} messages wait and have no delivery, {noted} were written while triggers did not fire: a running \
             broker makes their deliveries within seconds; if these numbers stay, look at its log"
        ),
    )])
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
