//! What the rehearsal found, in sentences: the column, constraint or trigger by its name, and what to do. Never a row.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::Rehearsed;
use crate::message::MessageType;
use crate::postgres::error::StoreError;

/// As sql/queries/rehearsal.sql writes it.
#[derive(Deserialize)]
pub(super) struct Found {
    schema: String,
    role: String,
    /// The goals and steps that were reached, with the way where there are several.
    reached: BTreeMap<String, Option<String>>,
    deliveries: Option<u64>,
    faults: Vec<Fault>,
}

/// A step that failed. Columns of the server's error, and of the catalogs.
#[derive(Clone, Deserialize)]
struct Fault {
    level: String,
    /// The table that the step is about; `None`: a migration or a trigger.
    table: Option<String>,
    /// What does not work then; of a migration its name.
    so: String,
    goal: Option<String>,
    /// The step sends messages of this type.
    r#type: Option<String>,
    sqlstate: String,
    said: String,
    of_schema: Option<String>,
    of_table: Option<String>,
    column: Option<String>,
    constraint: Option<String>,
    /// The columns of a key that is there twice.
    key: Option<String>,
    row_security: Option<bool>,
    triggers: Option<Vec<String>>,
    rules: Option<Vec<String>>,
    default: Option<String>,
    narrow: Option<Vec<String>>,
}

/// There was nothing to try it with.
const NOTHING_THERE: &str = "PB000";
/// Nothing failed, and the row is not as it was written. The codes are sql/queries/rehearsal.sql's own.
const CHANGED: &str = "PB";

impl Found {
    /// Refusals and warnings, those of one cause in one sentence.
    pub(super) fn judge(self) -> Result<Rehearsed, StoreError> {
        if let Some(held) = self.faults.iter().find(|f| matches!(f.sqlstate.as_str(), "55P03" | "40P01")) {
            return Err(held.lock());
        }
        let no_type = self.faults.iter().filter(|f| f.r#type.is_some()).count() == MessageType::ALL.len();
        let mut sentences: Vec<(bool, String, Vec<String>, String)> = Vec::new();
        for fault in &self.faults {
            let Some(refuses) = self.weight(fault, no_type) else { continue };
            let (cause, advice) = fault.explain(&self.schema, &self.role);
            match sentences.iter_mut().find(|(_, c, ..)| *c == cause) {
                Some((refused, _, so, _)) => {
                    *refused |= refuses;
                    if !so.contains(&fault.so) {
                        so.push(fault.so.clone());
                    }
                }
                None => sentences.push((refuses, cause, vec![fault.so.clone()], advice)),
            }
        }
        let mut rehearsed = Rehearsed { deliveries: self.deliveries, took: Duration::ZERO, ..Rehearsed::default() };
        for (refuses, cause, so, advice) in sentences {
            let sentence = match so.iter().any(|so| cause.contains(so.as_str())) {
                true => format!("{cause}. {advice}"),
                false => format!("{cause}, so {}. {advice}", so.join("; ")),
            };
            if refuses { &mut rehearsed.refusals } else { &mut rehearsed.warnings }.push(sentence);
        }
        Ok(rehearsed)
    }

    /// Whether it refuses; `None`: it is no fault, since what it was for was reached by the words of the mesh's own.
    fn weight(&self, fault: &Fault, no_type: bool) -> Option<bool> {
        if fault.sqlstate == NOTHING_THERE {
            return None;
        }
        let refuses = fault.level == "refuse" || (no_type && fault.r#type.is_some());
        match fault.goal.as_ref().map(|goal| self.reached.get(goal)) {
            None | Some(None) => Some(refuses),
            Some(Some(way)) if way.as_deref() == Some("own") => None,
            Some(Some(_)) => Some(false),
        }
    }
}

impl Fault {
    /// Somebody holds what it needs.
    fn lock(&self) -> StoreError {
        let held = "the database says: a lock was not given in time; another transaction holds the table; try again when it \
                    has ended";
        StoreError::unavailable(match self.table {
            None => self.not_applied(held),
            Some(_) => format!("it could not be tried whether {} holds: {held}", self.so),
        })
    }

    fn not_applied(&self, why: &str) -> String {
        format!("{} was not applied, and nothing of it remains: {why}", self.so)
    }

    fn is_changed(&self) -> bool {
        self.sqlstate.starts_with(CHANGED)
    }

    /// Why, and what to do.
    fn explain(&self, schema: &str, role: &str) -> (String, String) {
        let table = match &self.table {
            Some(table) => format!("{schema}.{table}"),
            None => self.failed_table(schema).unwrap_or_else(|| schema.to_owned()),
        };
        let (why, advice) = match self.triggers.as_deref() {
            Some([_, ..]) if !self.is_changed() => self.of_trigger(schema),
            _ if self.is_changed() => self.of_change(&table, role),
            _ => self.of_table(&table, schema, role),
        };
        match self.table {
            None => (self.not_applied(&why), advice),
            Some(_) => (format!("{table}: {why}"), advice),
        }
    }

    /// The table that the server names.
    fn failed_table(&self, schema: &str) -> Option<String> {
        let table = self.of_table.as_ref()?;
        Some(format!("{}.{table}", self.of_schema.as_deref().unwrap_or(schema)))
    }

    fn of_trigger(&self, schema: &str) -> (String, String) {
        let names = named(self.triggers.as_deref().unwrap_or_default());
        let where_ = self.failed_table(schema).unwrap_or_else(|| schema.to_owned());
        let why = match self.sqlstate.as_str() {
            "P0001" => "raises an exception".to_owned(),
            _ => format!("fails, since {}", self.reason(&where_).0),
        };
        (format!("{names} {why}"), "Mend its function, or let it pass over what the broker writes".to_owned())
    }

    /// A row that is not what was written.
    fn of_change(&self, table: &str, role: &str) -> (String, String) {
        let mut suspects = Vec::new();
        let mut advice = Vec::new();
        if let (Some(column), Some(default)) = (&self.column, &self.default) {
            suspects.push(format!("the default {default} of column {column}"));
            advice.push(match column.as_str() {
                "status" => format!("`alter table {table} alter column status set default 'pending'`"),
                _ => format!("`alter table {table} alter column {column} drop default`"),
            });
        }
        if let Some(triggers) = self.triggers.as_deref().filter(|names| !names.is_empty()) {
            suspects.push(named(triggers));
            advice.push("let the trigger leave the row as it is".to_owned());
        }
        if let Some(rules) = self.rules.as_deref().filter(|names| !names.is_empty()) {
            suspects.push(format!("the rule {}", rules.join(", ")));
            advice.push(format!("drop the rule on {table}"));
        }
        if self.row_security == Some(true) {
            suspects.push("row level security".to_owned());
            advice.push(format!("connect as a role from which it hides nothing (this is {role})"));
        }
        let column = self.column.as_deref().map(|c| format!(" (column {c})")).unwrap_or_default();
        let by = match suspects.is_empty() {
            true => String::new(),
            false => format!("; it may be {}", suspects.join(" or ")),
        };
        let advice = match advice.is_empty() {
            true => format!("See what {table} does to a row that is written: \\d {table}"),
            false => capital(&advice.join(", or ")),
        };
        (format!("{}{column}{by}", self.said), advice)
    }

    fn of_table(&self, table: &str, schema: &str, role: &str) -> (String, String) {
        let failed = self.failed_table(schema).unwrap_or_else(|| table.to_owned());
        if self.sqlstate == "42501" && self.row_security == Some(true) {
            let advice = format!(
                "Connect as the owner of {table}, `alter table {table} no force row level security`, or `alter role {role} bypassrls`"
            );
            return ("a policy of its row level security refuses the row".to_owned(), advice);
        }
        self.reason(&failed)
    }

    /// By the class of the error alone: its text and its details may hold values of a row.
    fn reason(&self, table: &str) -> (String, String) {
        let constraint = self.constraint.as_deref().unwrap_or("without a name");
        let column = self.column.as_deref().unwrap_or_default();
        let dropped = format!("`alter table {table} drop constraint {constraint}`");
        match self.sqlstate.as_str() {
            "23514" => (
                format!("the constraint {constraint} of {table} refuses the row"),
                format!("Let it take what the broker writes, or {dropped}"),
            ),
            "23502" => (
                format!("column {column} of {table} cannot be null"),
                format!("`alter table {table} alter column {column} drop not null`, or give it a default where the broker leaves it out"),
            ),
            "23503" => (
                format!("the foreign key {constraint} of {table} refuses the row"),
                format!("Let it be null there, or {dropped}"),
            ),
            "23505" if self.table.is_none() => {
                let key = self.key.as_deref().unwrap_or("its columns");
                (
                    format!("the unique index {constraint} of {table} cannot be made: rows have the same ({key})"),
                    format!("Find them with `select {key}, count(*) from {table} group by {key} having count(*) > 1`, and change all but one of each"),
                )
            }
            "23505" | "23P01" => (
                format!("{constraint}, which allows a value only once in {table}, refuses the row"),
                format!("Drop it, if more than one message, agent or alert may have it: {dropped}, or `drop index {constraint}`"),
            ),
            "22001" => {
                let narrow = self.narrow.as_deref().unwrap_or_default();
                let (columns, which) = match narrow.is_empty() {
                    true => ("a column".to_owned(), "the column".to_owned()),
                    false => (format!("column {}", narrow.join(" or ")), first_words(narrow)),
                };
                (
                    format!("{columns} of {table} is too short"),
                    format!("`alter table {table} alter column {which} type text`"),
                )
            }
            "428C9" => {
                let column = self.said.split('"').nth(1).unwrap_or(column);
                (
                    format!("column {column} of {table} is generated, and the broker writes it"),
                    format!("`alter table {table} alter column {column} drop expression`, or drop its identity"),
                )
            }
            "42P10" => (
                format!("no unique index of {table} fits: a dedupe key needs agent_messages_dedupe on (from_agent_id, dedupe_key)"),
                "Drop what has that name instead, then migrate".to_owned(),
            ),
            // These speak of tables, columns, types and rights.
            state if ["42", "0A", "25", "54", "55", "2B"].contains(&&state[..2]) => {
                (format!("the database says: {}", self.said), "Mend that, then try again".to_owned())
            }
            state => (
                format!("{table} refuses it with the error {state}"),
                "Look it up in the appendix of Postgres's documentation, then mend what raises it".to_owned(),
            ),
        }
    }
}

fn named(triggers: &[String]) -> String {
    match triggers {
        [one] => format!("the trigger {one}"),
        several => format!("one of the triggers {}", several.join(", ")),
    }
}

/// `error_message character varying(255)` is of error_message.
fn first_words(narrow: &[String]) -> String {
    let names: Vec<&str> = narrow.iter().filter_map(|column| column.split(' ').next()).collect();
    names.join(", then ")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
