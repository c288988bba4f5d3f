//! Compares a database with the schema that this version needs, for `postbell doctor`, `postbell migrate` and the
//! running broker.
//!
//! The needed schema is not written by hand: a test keeps in `sql/needed.json` what `sql/queries/catalog.sql` finds
//! on a freshly migrated database. The comparison is pure.

mod cure;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::cell::Cells;
use super::connection::Connection;
use super::error::StoreError;
use crate::store::sql::queries;

/// The needed parts, in the order in which they can be made.
static NEEDED: LazyLock<Vec<Object>> = LazyLock::new(|| {
    // A test reads the file too, so a broken one fails there and never at a user's.
    serde_json::from_str(include_str!("../../sql/needed.json")).unwrap_or_default()
});

/// How many errors in this process hinted at drift. A number and not a flag, since each broker in the process reads
/// this for itself.
static SMELLS: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));

/// A part of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// `table`, `column`, `trigger` and so on.
    pub kind: String,
    /// The table to which this part belongs; otherwise a schema or nothing.
    pub parent: String,
    /// The name of the part.
    pub name: String,
    /// The text that must be equal.
    pub definition: String,
    /// The SQL that makes this part.
    pub remake: String,
}

/// A part that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The part as it must be.
    pub needed: &'static Object,
    /// The definition that was found instead; `None` if the part is missing.
    pub found: Option<String>,
}

impl Difference {
    /// Says what differs, but not what to do.
    pub fn sentence(&self) -> String {
        let Object { kind, parent, name, definition, .. } = self.needed;
        let what = match kind.as_str() {
            "column" => format!("column {parent}.{name}"),
            "trigger" | "constraint" | "index" => format!("{kind} {name} on {parent}"),
            "index by" => return format!("{parent} has no index that begins with {name}"),
            "key" => return format!("{parent}.{name} is no primary key and not unique"),
            "function" => format!("function {name}"),
            "table" => format!("table {name}"),
            _ => format!("{kind} {parent}.{name}"),
        };
        let Some(found) = &self.found else { return format!("{what} is missing") };
        match kind.as_str() {
            "trigger" if self.is_disabled() => format!("{what} is disabled"),
            "column" => format!("{what} is \"{found}\" and must be \"{definition}\""),
            "index" if self.is_invalid() => format!("{what} is invalid"),
            _ => format!("{what} is not as this version needs it"),
        }
    }

    /// Whether the broker works all the same, only more slowly.
    pub fn is_only_slow(&self) -> bool {
        self.needed.kind == "index by"
    }

    /// Whether the part is an index of a table of the user's.
    pub(super) fn is_users_index(&self) -> bool {
        self.needed.kind == "index" && !self.needed.parent.starts_with("postbell.")
    }

    /// Whether the part is an index that is as it must be, but for an interrupted build.
    fn is_invalid(&self) -> bool {
        let found = self.found.as_deref().and_then(|found| found.strip_suffix(" (invalid)"));
        found == Some(self.needed.definition.as_str())
    }

    /// Whether the part is a trigger that somebody switched off.
    pub fn is_disabled(&self) -> bool {
        let fires = |text: &str| text.split('|').nth(1).map(str::to_owned);
        self.needed.kind == "trigger"
            && self.found.as_deref().is_some_and(|f| fires(f) != fires(&self.needed.definition))
    }
}

/// Returns every difference, in the order in which they can be mended.
///
/// # Errors
/// See [`StoreError`].
pub async fn differences(connection: &Connection) -> Result<Vec<Difference>, StoreError> {
    let found = read(connection).await?;
    Ok(compare(&NEEDED, &found))
}

/// Returns the parts that this database has. On a freshly migrated one these are the needed parts.
///
/// # Errors
/// See [`StoreError`].
pub async fn read(connection: &Connection) -> Result<Vec<Object>, StoreError> {
    let mut found = Vec::new();
    for row in connection.query(queries::CATALOG, &[]).await? {
        found.push(Object {
            kind: row.cell("kind")?,
            parent: row.cell("parent")?,
            name: row.cell("name")?,
            definition: row.cell::<_, Option<_>>("definition")?.unwrap_or_default(),
            remake: row.cell::<_, Option<_>>("remake")?.unwrap_or_default(),
        });
    }
    Ok(found)
}

/// A sentence for each table that inherits from agent_messages: the triggers do not see what is inserted there.
///
/// # Errors
/// See [`StoreError`].
pub async fn heirs(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let rows = connection.query(queries::HEIRS, &[]).await?;
    let sentence = |name: String| {
        format!(
            "table {name} inherits from agent_messages, so no trigger sees what is inserted there and no broker delivers it: insert \
             into agent_messages, and `alter table {name} no inherit agent_messages`"
        )
    };
    rows.iter().map(|row| Ok(sentence(row.cell("name")?))).collect()
}

/// The [`differences`] and the [`heirs`].
///
/// # Errors
/// See [`StoreError`].
pub(crate) async fn found(connection: &Connection) -> Result<(Vec<Difference>, Vec<String>), StoreError> {
    Ok((differences(connection).await?, heirs(connection).await?))
}

/// A sentence for each trigger and rule on Postbell's own tables that is somebody else's.
///
/// # Errors
/// See [`StoreError`].
pub async fn foreign(connection: &Connection) -> Result<Vec<String>, StoreError> {
    let rows = connection.query(queries::DOCTOR_FOREIGN, &[]).await?;
    let sentence = |what: String| {
        format!(
            "{what} is not Postbell's: a row that it refuses or delays is not written or not delivered; drop it, and put it on a \
             table of your own"
        )
    };
    rows.iter().map(|row| Ok(sentence(row.cell("what")?))).collect()
}

/// The needed parts, for tests.
pub fn needed() -> &'static [Object] {
    &NEEDED
}

/// Returns the differences. A missing table is one difference, without its columns and indexes. Parts beyond the
/// needed ones are the user's.
fn compare(needed: &'static [Object], found: &[Object]) -> Vec<Difference> {
    let key = |o: &Object| (o.kind.clone(), o.parent.clone(), o.name.clone());
    let found: HashMap<_, _> = found.iter().map(|o| (key(o), o.definition.as_str())).collect();
    let is_there = |table: &str| {
        found.keys().any(|(kind, _, name)| kind == "table" && name == table)
            || !needed.iter().any(|o| o.kind == "table" && o.name == table)
    };
    let difference = |needed: &'static Object| {
        let there = found.get(&key(needed)).copied();
        let is_right = there.is_some_and(|there| is_satisfied(needed, there));
        let of_missing = needed.kind != "table" && !is_there(&needed.parent);
        (!is_right && !of_missing).then(|| Difference { needed, found: there.map(str::to_owned) })
    };
    needed.iter().filter_map(difference).collect()
}

/// Whether a part is good enough. A user's column may be looser than the one that Postbell would make.
fn is_satisfied(needed: &Object, there: &str) -> bool {
    if there == needed.definition {
        return true;
    }
    if needed.kind != "column" || needed.parent.starts_with("postbell.") {
        return false;
    }
    let bare = |text: &str| {
        let text = text.strip_suffix(" has a default").unwrap_or(text);
        text.strip_suffix(" must be given").unwrap_or(text).to_owned()
    };
    let must_be_given = there.ends_with(" must be given");
    bare(there) == bare(&needed.definition)
        && (!must_be_given || needed.definition.ends_with(" must be given"))
}

/// Counts an error that hints at drift, so that the catalogs are compared soon.
pub(super) fn smell(sqlstate: &str) {
    // Undefined column, table, unique index, function, object, schema; a missing right; a column without a value.
    if matches!(sqlstate, "42703" | "42P01" | "42P10" | "42883" | "42704" | "3F000" | "42501" | "23502") {
        note_smell();
    }
}

/// Counts an error as if a statement had failed with one of those codes.
pub fn note_smell() {
    SMELLS.send_modify(|n| *n += 1);
}

/// How many errors hinted at drift. If the number has grown since the last comparison, another is due.
pub fn smells() -> watch::Receiver<u64> {
    SMELLS.subscribe()
}
