//! Whether the tables that a database already has are those of a mesh, so that Postbell can adopt them.
//!
//! Many databases keep something else in a table of that name, most often chat history. There adoption refuses,
//! before anything is changed, and names the columns that it found.

use std::collections::BTreeMap;

use super::cell::Cells;
use super::connection::Connection;
use super::error::StoreError;
use crate::base::names::few;
use crate::store::sql::queries;

/// The table in which messages wait.
const MESSAGES: &str = "agent_messages";

/// Every table of the user's that a broker works with.
const TABLES: &[&str] = &[MESSAGES, "agent_registry", "agent_alerts", "agent_metrics"];

/// The most names that a sentence lists before "and N more".
const NAMES_MAX: usize = 12;

/// The effect of a migration on the user's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Adoption {
    /// Tables that exist. They gain columns and keep every row.
    pub adopts: Vec<&'static str>,
    /// Tables that are missing and are created.
    pub creates: Vec<&'static str>,
    /// Messages that wait. Each gets a delivery for each of its recipients.
    pub waiting: i64,
    /// Messages that a poller took and never finished. They are left as they are.
    pub taken: i64,
}

/// A fault of one column, as sql/queries/adoption_faults.sql lists it.
struct Fault {
    kind: String,
    column: String,
    wanted: String,
    found: Option<String>,
}

/// The faults of one table.
struct TableFaults {
    schema: String,
    has: Vec<String>,
    faults: Vec<Fault>,
}

/// Returns what adoption of `taken` would do; only reads. `present` are the tables of the mesh that exist. Tables
/// that were adopted earlier are looked at again, because the user may have added a column of a name that a later
/// migration wants.
///
/// # Errors
/// A sentence for each table that is something else.
pub(super) async fn check(
    connection: &Connection,
    present: &[String],
    taken: &[&'static str],
) -> Result<Adoption, StoreError> {
    let mut tables = BTreeMap::<String, TableFaults>::new();
    for row in connection.query(queries::ADOPTION_FAULTS, &[&TABLES]).await? {
        let (schema, has) = (row.cell("schema")?, row.cell("has")?);
        let table = tables.entry(row.cell("table_name")?);
        let table = table.or_insert_with(|| TableFaults { schema, has, faults: Vec::new() });
        table.faults.push(Fault {
            kind: row.cell("fault")?,
            column: row.cell("column_name")?,
            wanted: row.cell("wanted")?,
            found: row.cell("found")?,
        });
    }
    if !tables.is_empty() {
        let sentences: Vec<_> = tables.iter().map(|(name, faults)| sentence(name, faults)).collect();
        return Err(StoreError::refused(format!(
            "{}. Nothing was changed. Mend that, rename the table, or give Postbell a schema of its own: `create schema \
             mesh`, then POSTBELL_SCHEMA=mesh",
            sentences.join(". ")
        )));
    }
    let mut adoption = Adoption::default();
    let is_there = |name: &str| present.iter().any(|table| table == name);
    (adoption.adopts, adoption.creates) = taken.iter().copied().partition(|name| is_there(name));
    if adoption.adopts.contains(&MESSAGES) {
        let row = connection.query_one(queries::ADOPT_COUNT, &[]).await?;
        (adoption.waiting, adoption.taken) = (row.cell("waiting")?, row.cell("taken")?);
    }
    Ok(adoption)
}

fn sentence(name: &str, table: &TableFaults) -> String {
    let full_name = format!("{}.{name}", table.schema);
    let of = |kind: &str| table.faults.iter().filter(|f| f.kind == kind).collect::<Vec<_>>();
    if let [fault, ..] = of("kind")[..] {
        let found = fault.found.as_deref().unwrap_or_default();
        return format!("{full_name} cannot be adopted: it is {found}, not {}", fault.wanted);
    }
    let mut parts = Vec::new();
    let missing = of("missing");
    if !missing.is_empty() {
        parts.push(format!("it lacks {}", few(missing.iter().map(|f| &f.column), NAMES_MAX)));
    }
    for fault in of("type") {
        let (column, found) = (&fault.column, fault.found.as_deref().unwrap_or_default());
        let mend = match fault.wanted.starts_with("text") {
            true => format!(" (`alter table {full_name} alter column {column} type text`)"),
            false => String::new(),
        };
        parts.push(format!("{column} is {found}, not {}{mend}", fault.wanted));
    }
    if !of("key").is_empty() {
        parts.push(format!("{} is no primary key", of("key")[0].column));
    }
    for fault in of("generated") {
        let column = &fault.column;
        parts.push(format!(
            "{column} is generated, and the broker writes it (`alter table {full_name} alter column {column} drop \
             expression`, or drop its identity)"
        ));
    }
    for fault in of("collation") {
        let (column, found) = (&fault.column, fault.found.as_deref().unwrap_or_default());
        parts.push(format!(
            "{column} has the collation {found}, which takes different names for the same (`alter table {full_name} alter \
             column {column} type text collate \"default\"`)"
        ));
    }
    for fault in of("default") {
        let (column, found) = (&fault.column, fault.found.as_deref().unwrap_or_default());
        parts.push(format!(
            "{column} has the default {found}, which would be that of every message: `alter table {full_name} alter \
             column {column} drop default`"
        ));
    }
    let required = of("required");
    if !required.is_empty() {
        let names = few(required.iter().map(|f| &f.column), NAMES_MAX);
        parts.push(format!("{names} must be given with each row and has no default"));
    }
    let faults = parts.join("; ");
    // A table that lacks most columns of a mesh is another kind of table, so the sentence says which.
    match missing.len() >= 4 {
        true => format!(
            "{full_name} has {}: it is something else{}. As a table of {} {faults}",
            few(&table.has, NAMES_MAX),
            guess(&table.has),
            what(name),
        ),
        false => format!("{full_name} cannot be adopted: {faults}"),
    }
}

/// The content of the mesh's table of that name.
fn what(name: &str) -> &'static str {
    match name {
        MESSAGES => "messages",
        "agent_alerts" => "alerts",
        "agent_metrics" => "metrics",
        _ => "agents",
    }
}

/// A guess from the columns: agent frameworks keep conversations in a table of this name.
fn guess(has: &[String]) -> &'static str {
    let signs = ["session_id", "thread_id", "conversation_id", "role", "content", "message_data"];
    match has.iter().filter(|column| signs.contains(&column.as_str())).count() {
        0 | 1 => "",
        _ => ", chat history perhaps",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(has: &[&str], faults: &[(&str, &str, &str, Option<&str>)]) -> TableFaults {
        let faults = faults.iter().map(|(kind, column, wanted, found)| Fault {
            kind: (*kind).to_owned(),
            column: (*column).to_owned(),
            wanted: (*wanted).to_owned(),
            found: found.map(str::to_owned),
        });
        TableFaults {
            schema: "public".to_owned(),
            has: has.iter().map(|c| (*c).to_owned()).collect(),
            faults: faults.collect(),
        }
    }

    #[test]
    fn a_single_fault_is_named() {
        let faults = table(&["message_id"], &[("type", "payload", "jsonb", Some("text"))]);
        let sentence = sentence("agent_messages", &faults);
        assert_eq!(sentence, "public.agent_messages cannot be adopted: payload is text, not jsonb");
    }

    #[test]
    fn another_table_of_that_name_is_recognised() {
        let missing = ["from_agent_id", "message_type", "payload", "priority"];
        let faults: Vec<_> = missing.iter().map(|c| ("missing", *c, "text", None)).collect();
        let sentence = sentence("agent_messages", &table(&["session_id", "role", "content"], &faults));
        assert!(sentence.starts_with(
            "public.agent_messages has session_id, role, content: it is something else, chat history perhaps. "
        ));
        assert!(sentence.ends_with("it lacks from_agent_id, message_type, payload, priority"), "{sentence}");
    }
}
