//! Says before a migration whom each of its steps keeps out of which tables, and for how long.
//!
//! Nobody keeps a list of locks by hand: a test applies each step to a mesh and writes down in `sql/locks.json` which tables
//! the server then held for it, and which of them it had read from end to end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::Work;
use super::concurrently::{DueStep, DueSteps};
use super::embedded::ROUTE;
use super::state::Found;
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::sql::queries;

const MESSAGES: &str = "agent_messages";

static LOCKS: LazyLock<Vec<StepLocks>> = LazyLock::new(|| {
    // A test reads the file too, so a broken one fails there and never at a user's.
    serde_json::from_str(include_str!("../../../sql/locks.json")).unwrap_or_default()
});

/// The tables that a migration or trigger locks, of those that were there before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepLocks {
    /// The migration's label, or the trigger's name in Postgres.
    pub step: String,
    /// Tables that nobody reads or writes meanwhile.
    pub readers_and_writers: BTreeSet<String>,
    /// Tables that nobody writes meanwhile.
    pub writers: BTreeSet<String>,
    /// Tables that are read from end to end, while the locks are held.
    pub scans: BTreeSet<String>,
}

/// Whom a step keeps out, in a sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// The migration's label; `triggers` for all of them, which are one transaction.
    pub step: String,
    /// Whether this comes before the migration, outside of its transaction.
    pub is_beforehand: bool,
    /// The sentence.
    pub sentence: String,
}

/// The size of a table.
struct TableSize {
    bytes: i64,
    /// `None` where nobody has counted them yet.
    rows: Option<i64>,
}

type Sizes = BTreeMap<String, TableSize>;

/// The locks of every step, for the test that writes them down.
pub fn step_locks() -> &'static [StepLocks] {
    &LOCKS
}

/// Returns a sentence for each step that is pending. Tables that are not there yet keep nobody waiting.
pub(super) async fn holds(
    connection: &Connection,
    found: &Found,
    work: &Work,
) -> Result<Vec<Hold>, StoreError> {
    let mut steps: Vec<_> = work.migrations.iter().map(|due| (due, locks_of(due))).collect();
    let triggers = triggers(work);
    let mut named: BTreeSet<&str> = BTreeSet::from([MESSAGES]);
    for locks in steps.iter().map(|(_, locks)| locks).chain(&triggers) {
        let all = locks.readers_and_writers.iter().chain(&locks.writers).chain(&locks.scans);
        named.extend(all.map(String::as_str));
    }
    named.extend(work.migrations.iter().flat_map(|due| due.steps.iter().filter_map(table_of)));
    let sizes = sizes(connection, &named).await?;
    let mut holds = Vec::new();
    for (due, locks) in &mut steps {
        let label = due.migration.label();
        let before = due.steps.iter().map(|step| loose(step, &sizes));
        holds.extend(before.map(|sentence| Hold { step: label.clone(), is_beforehand: true, sentence }));
        let sentence = if due.migration.concurrently { NOBODY.to_owned() } else { within(locks, &sizes) };
        holds.push(Hold { step: label, is_beforehand: false, sentence });
    }
    if let Some(mut locks) = triggers {
        // Messages that wait get their deliveries, or are noted as routed, while the triggers are made.
        if work.triggers.iter().any(|t| t.name == ROUTE) && !found.tables.is_empty() {
            locks.scans.insert(MESSAGES.to_owned());
        }
        let sentence = within(&locks, &sizes);
        holds.push(Hold { step: "triggers".to_owned(), is_beforehand: false, sentence });
    }
    Ok(holds)
}

const NOBODY: &str = "nobody is kept out";

fn locks_of(due: &DueSteps) -> StepLocks {
    named(&due.migration.label())
}

fn named(step: &str) -> StepLocks {
    LOCKS.iter().find(|locks| locks.step == step).cloned().unwrap_or_default()
}

/// The locks of all triggers, which are installed in one transaction; `None` if there are none to install.
fn triggers(work: &Work) -> Option<StepLocks> {
    let each = work.triggers.iter().map(|trigger| named(&trigger.full_name()));
    each.reduce(|mut all, mut locks| {
        all.readers_and_writers.append(&mut locks.readers_and_writers);
        all.writers.append(&mut locks.writers);
        all.scans.append(&mut locks.scans);
        all
    })
}

fn table_of(step: &DueStep) -> Option<&str> {
    match step {
        DueStep::Columns { table, .. } => Some(table),
        DueStep::Build { site, .. } => Some(&site.table),
        DueStep::Drop { .. } => None,
    }
}

async fn sizes(connection: &Connection, tables: &BTreeSet<&str>) -> Result<Sizes, StoreError> {
    let tables: Vec<_> = tables.iter().copied().collect();
    let rows = connection.query(queries::TABLE_SIZES, &[&tables]).await?;
    let size = |row: &tokio_postgres::Row| {
        Ok((row.cell("name")?, TableSize { bytes: row.cell("bytes")?, rows: row.cell("rows")? }))
    };
    rows.iter().map(size).collect()
}

/// The sentence for a step outside of a transaction.
fn loose(step: &DueStep, sizes: &Sizes) -> String {
    match step {
        DueStep::Columns { table, .. } => {
            format!("add columns to {table}: readers and writers of {table} are kept out for a moment")
        }
        DueStep::Build { site, .. } => {
            let (index, table) = (&site.index, &site.table);
            let reads = match sizes.get(table).map(TableSize::told) {
                Some(Some(size)) => format!("reads {table} twice ({size}) and "),
                _ => String::new(),
            };
            format!(
                "build {index} on {table} concurrently: nobody is kept out; {reads}waits for every transaction that is open then"
            )
        }
        DueStep::Drop { sql } => {
            format!("{sql}: nobody is kept out; waits for every transaction that uses the table")
        }
    }
}

/// The sentence for a step within a transaction.
fn within(locks: &StepLocks, sizes: &Sizes) -> String {
    let there = |tables: &BTreeSet<String>| -> Vec<String> {
        tables.iter().filter(|table| sizes.contains_key(*table)).cloned().collect()
    };
    let all = there(&locks.readers_and_writers);
    let writers: Vec<_> = there(&locks.writers).into_iter().filter(|table| !all.contains(table)).collect();
    let mut parts = Vec::new();
    if !all.is_empty() {
        parts.push(format!("readers and writers of {}", listed(&all)));
    }
    if !writers.is_empty() {
        parts.push(format!("writers of {}", listed(&writers)));
    }
    if parts.is_empty() {
        return NOBODY.to_owned();
    }
    let scan = |table: String| Some(format!("{table} ({})", sizes.get(&table)?.told()?));
    let scans: Vec<_> = there(&locks.scans).into_iter().filter_map(scan).collect();
    let time = match scans.is_empty() {
        true => "for a moment".to_owned(),
        false => format!("for a scan of {}", listed(&scans)),
    };
    format!("{} are kept out {time}", parts.join(", and "))
}

fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

impl TableSize {
    /// The size in words; `None` for an empty table, which is read in a moment.
    fn told(&self) -> Option<String> {
        match self.rows {
            _ if self.bytes == 0 => None,
            Some(1) => Some("1 row".to_owned()),
            Some(rows) => Some(format!("some {} rows", grouped(rows))),
            None => {
                Some(format!("{} kB, whose rows nobody has counted: `analyze`", grouped(self.bytes / 1024)))
            }
        }
    }
}

/// A number with its thousands apart.
fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn sized() -> Sizes {
        let size = |bytes, rows| TableSize { bytes, rows };
        BTreeMap::from([
            ("a".to_owned(), size(9_000_000, Some(1_234_567))),
            ("b".to_owned(), size(0, Some(0))),
            ("c".to_owned(), size(2_048_000, None)),
        ])
    }

    #[test]
    fn a_step_names_whom_it_keeps_out_and_for_how_long() {
        let locks = |all: &[&str], writers: &[&str], scans: &[&str]| StepLocks {
            step: String::new(),
            readers_and_writers: set(all),
            writers: set(writers),
            scans: set(scans),
        };
        let told = |locks: &StepLocks| within(locks, &sized());
        assert_eq!(
            told(&locks(&["a", "b"], &[], &[])),
            "readers and writers of a and b are kept out for a moment"
        );
        assert_eq!(
            told(&locks(&["b"], &["a", "b", "elsewhere"], &["a", "b"])),
            "readers and writers of b, and writers of a are kept out for a scan of a (some 1,234,567 rows)"
        );
        assert_eq!(
            told(&locks(&[], &["c"], &["c"])),
            "writers of c are kept out for a scan of c (2,000 kB, whose rows nobody has counted: `analyze`)"
        );
        assert_eq!(told(&locks(&["elsewhere"], &[], &["elsewhere"])), NOBODY);
    }

    #[test]
    fn the_file_is_read() {
        assert!(LOCKS.len() > 10);
        assert!(LOCKS.iter().any(|locks| locks.readers_and_writers.contains(MESSAGES)));
    }
}
