//! The SQL that mends a difference, if that is safe; otherwise what the user can do.

use super::{Difference, Object};
use crate::store::migrate::MIGRATIONS;

/// Columns by which everything else names a row. Making one anew in a table with rows would give the rows other
/// names.
const NAMES_ROWS: &[(&str, &str)] =
    &[("agent_messages", "message_id"), ("agent_registry", "agent_id"), ("agent_alerts", "alert_id")];

impl Difference {
    /// The SQL that mends the difference, in the user's schema; `None` if only the user can mend it, or if installing
    /// the triggers does.
    pub fn cure(&self) -> Option<String> {
        let Object { kind, parent, name, remake, .. } = self.needed;
        let is_missing = self.found.is_none();
        match kind.as_str() {
            "table" => Some(format!("{remake}; {}", rows_of(name))),
            "column" if is_missing => Some(self.column_anew()),
            "column" if parent.starts_with("postbell.") => self.column_altered(),
            "column" => self.default_restored(),
            "function" if is_missing || self.returns_the_same() => Some(remake.clone()),
            "function" => Some(format!("drop function {name} cascade; {remake}")),
            "view" => Some(format!("drop view if exists postbell.{name} cascade; {remake}")),
            "constraint" => {
                Some(format!("alter table {parent} drop constraint if exists \"{name}\"; {remake}"))
            }
            "index" if parent.starts_with("postbell.") => {
                Some(format!("drop index if exists postbell.\"{name}\"; {remake}"))
            }
            // One of that name on other columns is the user's.
            "index" if is_missing || self.is_invalid() => Some(remake.clone()),
            "type" | "sequence" | "key" if is_missing => Some(remake.clone()),
            _ => None,
        }
    }

    /// The user's way out, as it follows the sentence and a colon.
    pub fn way_out(&self) -> String {
        let Object { kind, parent, name, definition, remake } = self.needed;
        let is_missing = self.found.is_none();
        let found = self.found.as_deref().unwrap_or_default();
        match kind.as_str() {
            "index by" => format!("`create index concurrently on {parent} ({name})`"),
            "key" => format!("remove the rows that have the same {name}, then run `postbell migrate`"),
            "column" if self.found.is_none() && NAMES_ROWS.contains(&(parent, name)) => format!(
                "restore the table from a back-up; or give every row a new name, `alter table {parent} add column {name} \
                 {definition}`, and run `postbell migrate`"
            ),
            "column" if self.found.is_none() => format!(
                "its rows mean nothing without it: restore {parent} from a back-up, or `truncate {parent}` and run \
                 `postbell migrate`, which makes the deliveries of what waits anew"
            ),
            "column" if found.ends_with(" must be given") => {
                format!("`alter table {parent} alter column {name} drop not null`, or give it a default")
            }
            "column" if found.contains(" default ") => {
                format!(
                    "`alter table {parent} alter column {name} drop default`, since that would be an address"
                )
            }
            "column" if found.contains(" generated") => {
                format!("`alter table {parent} alter column {name} drop expression`")
            }
            "column" => format!("make the column {definition}, or rename it and run `postbell migrate`"),
            "type" => format!(
                "restore schema postbell from a back-up, or `drop type postbell.{name} cascade` and run `postbell migrate`"
            ),
            "constraint" => format!("mend the rows of {parent} that break it, then run `postbell migrate`"),
            "index" if self.is_users_index() && !is_missing => format!(
                "it is an index of your own; give it another name (`alter index {name} rename to …`), then run `postbell migrate`"
            ),
            "index" => format!(
                "remove the rows of {parent} that keep it from being made, or give another name to whatever has its name, then run `postbell migrate`"
            ),
            _ => format!("as an owner of schema postbell run `postbell migrate`, or by hand: `{remake}`"),
        }
    }

    fn column_anew(&self) -> String {
        let Object { parent, name, remake, .. } = self.needed;
        if (parent.as_str(), name.as_str()) == ("postbell.deliveries", "state") {
            // The value of `state` follows from other columns.
            return format!(
                "{remake}; update postbell.deliveries set state = case when dead_at is not null then 'dead' \
                 when due_at is not null then 'scheduled' else 'ready' end::postbell.delivery_state"
            );
        }
        match NAMES_ROWS.contains(&(parent, name)) {
            false => remake.clone(),
            true => format!(
                "do $$ begin if exists (select from {parent}) then raise exception 'the table has rows'; end if; end $$; {remake}"
            ),
        }
    }

    /// Alters a column of Postbell's own table to be as in `add column NAME TYPE [generated … as identity] [default
    /// …] [not null]`.
    fn column_altered(&self) -> Option<String> {
        let Object { parent, name, remake, definition, .. } = self.needed;
        let made = remake.split_once(&format!(" add column {name} "))?.1;
        let (made, not_null) = match made.strip_suffix(" not null") {
            Some(rest) => (rest, "set not null"),
            None => (made, "drop not null"),
        };
        let (made, default) = match made.split_once(" default ") {
            Some((rest, default)) => (rest, format!("set default {default}")),
            None => (made, "drop default".to_owned()),
        };
        let (kind, identity) = match made.split_once(" generated ") {
            Some((kind, identity)) => (kind, Some(identity)),
            None => (made, None),
        };
        let found = self.found.as_deref().unwrap_or_default();
        let mut parts = Vec::new();
        if !found.starts_with(kind) {
            parts.push("drop default".to_owned());
            parts.push(format!("alter column {name} type {kind} using {name}::text::{kind}"));
        }
        // An identity has a sequence in place of a default.
        if identity.is_none() {
            parts.push(default);
        }
        parts.push(not_null.to_owned());
        let has_identity = found.split_whitespace().any(|word| word == "a" || word == "d");
        let next = match identity {
            Some(identity) if !has_identity => {
                parts.push(format!("add generated {identity}"));
                format!(
                    "; select setval(pg_get_serial_sequence('{parent}', '{name}'), (select coalesce(max({name}), 0) + 1 from {parent}))"
                )
            }
            _ => String::new(),
        };
        debug_assert!(!definition.is_empty());
        let parts: Vec<_> =
            parts
                .iter()
                .map(|p| {
                    if p.starts_with("alter column") { p.clone() } else { format!("alter column {name} {p}") }
                })
                .collect();
        Some(format!("alter table {parent} {}{next}", parts.join(", ")))
    }

    /// Restores the default of a user's column that lost it although rows without a value need it.
    fn default_restored(&self) -> Option<String> {
        let Object { parent, name, remake, definition, .. } = self.needed;
        let lost = definition.ends_with(" has a default")
            && self
                .found
                .as_deref()
                .is_some_and(|f| f.replace(" must be given", " has a default") == *definition);
        let default = remake.split_once(" default ")?.1.trim_end_matches(" not null");
        lost.then(|| format!("alter table {parent} alter column {name} set default {default}"))
    }

    /// Whether the function still returns the same type, since `create or replace` cannot change that.
    fn returns_the_same(&self) -> bool {
        let result = |text: &str| text.split('|').next().map(str::to_owned);
        self.found.as_deref().is_some_and(|f| result(f) == result(&self.needed.definition))
    }
}

/// The INSERTs by which the migrations filled a table when they made it.
fn rows_of(table: &str) -> String {
    let begins = format!("\ninsert into {table} ");
    let of = |sql: &str| {
        let statements = sql.match_indices(&begins).filter_map(|(at, _)| sql[at..].split_once(';'));
        statements.map(|(statement, _)| format!("{statement};")).collect::<String>()
    };
    MIGRATIONS.iter().map(|m| of(m.sql)).collect()
}
