//! Why a step failed and what to do: names the column, constraint or trigger, but never quotes a row. So only the
//! class of the error decides, since its text and details may hold values.

use super::fault::{Fault, Rule, capital};

/// Classes of errors about tables, columns, types and rights. Such errors are about the schema and not a row, so
/// their text may be shown.
const OF_THE_SCHEMA: [&str; 6] = ["42", "0A", "25", "2B", "54", "55"];

impl Fault {
    /// The reason, and the advice.
    pub(super) fn explain(&self, schema: &str, role: &str) -> (String, String) {
        let own = self.table.as_ref().map(|table| format!("{schema}.{table}"));
        let failed =
            self.of_table.as_ref().map(|t| format!("{}.{t}", self.of_schema.as_deref().unwrap_or(schema)));
        let known = failed.or_else(|| own.clone());
        let table = known.as_deref().unwrap_or(schema);
        let is_changed = self.sqlstate.starts_with("PB");
        let (why, advice) = match self.triggers.as_deref() {
            Some(names @ [_, ..]) if !is_changed => self.of_trigger(names, table),
            _ if !is_changed && self.rules.as_ref().is_some_and(|rules| !rules.is_empty()) => self.of_rules(),
            _ if is_changed => {
                let (why, advice) = self.of_change(table, role);
                (format!("{table}: {why}"), advice)
            }
            _ => {
                let (why, advice) = self.of_table(table, role);
                (known.as_ref().map(|table| format!("{table}: {why}")).unwrap_or(why), advice)
            }
        };
        match own {
            None => (self.not_applied(&why), advice),
            Some(_) => (why, advice),
        }
    }

    fn of_trigger(&self, names: &[String], table: &str) -> (String, String) {
        let why = match self.sqlstate.as_str() {
            "P0001" => "raises an exception".to_owned(),
            _ => format!("fails, since {table}: {}", self.reason(table).0),
        };
        let advice = "Mend its function, or let it pass over what the broker writes".to_owned();
        (format!("{} {why}", triggers(names)), advice)
    }

    /// Postgres takes no ON CONFLICT with a rule, and neither WITH nor RETURNING with some.
    fn of_rules(&self) -> (String, String) {
        let rules = self.rules.as_deref().unwrap_or_default();
        let go = if rules.len() == 1 { "does not go" } else { "do not go" };
        let advice: Vec<_> = rules.iter().map(dropped).collect();
        (
            format!("{} {go} with statements of the broker", named(rules)),
            format!("Let a trigger do what it is for, and {}", advice.join(", ")),
        )
    }

    /// Explains a step without an error after which the row is not as it was written.
    fn of_change(&self, table: &str, role: &str) -> (String, String) {
        let (mut suspects, mut advice) = (Vec::new(), Vec::new());
        if let (Some(column), Some(default)) = (&self.column, &self.default) {
            suspects.push(format!("the default {default} of column {column}"));
            advice.push(match column.as_str() {
                "status" => format!("`alter table {table} alter column status set default 'pending'`"),
                _ => format!("`alter table {table} alter column {column} drop default`"),
            });
        }
        if let Some(names @ [_, ..]) = self.triggers.as_deref() {
            suspects.push(triggers(names));
            advice.push("let the trigger leave the row as it is".to_owned());
        }
        if let Some(rules @ [_, ..]) = self.rules.as_deref() {
            suspects.push(named(rules));
            advice.extend(rules.iter().map(dropped));
        }
        if self.row_security == Some(true) {
            suspects.push("row level security".to_owned());
            advice.push(see_all(table, role));
        }
        let by = match suspects.is_empty() {
            true => String::new(),
            false => format!("; it may be {}", suspects.join(" or ")),
        };
        let advice = match advice.is_empty() {
            true => format!("See in `\\d {table}` what becomes of a row that is written"),
            false => capital(&advice.join(", or ")),
        };
        (format!("{}{by}", self.said), advice)
    }

    fn of_table(&self, table: &str, role: &str) -> (String, String) {
        match self.sqlstate == "42501" && self.row_security == Some(true) {
            true => {
                ("a policy of row level security refuses the row".to_owned(), capital(&see_all(table, role)))
            }
            false => self.reason(table),
        }
    }

    fn reason(&self, table: &str) -> (String, String) {
        let constraint = self.constraint.as_deref().unwrap_or("without a name");
        let column = self.column.as_deref().unwrap_or_default();
        let drop = format!("`alter table {table} drop constraint {constraint}`");
        let (why, advice) = match self.sqlstate.as_str() {
            "23514" => (
                format!("the constraint {constraint} refuses the row"),
                format!("Let it take what the broker writes, or {drop}"),
            ),
            "23502" => (
                format!("column {column} cannot be null"),
                format!(
                    "`alter table {table} alter column {column} drop not null`, or give it a default where the broker leaves \
                     it out"
                ),
            ),
            "23503" => (
                format!("the foreign key {constraint} refuses the row"),
                format!("Let it be null there, or {drop}"),
            ),
            "23505" if self.table.is_none() => return self.duplicates(table, constraint),
            "23505" | "23P01" => (
                format!("{constraint}, which takes a value only once, refuses the row"),
                format!("Drop it if several rows may have the same: {drop}, or `drop index {constraint}`"),
            ),
            "22001" => return self.too_short(table),
            "428C9" => {
                let column = self.said.split('"').nth(1).unwrap_or(column);
                (
                    format!("column {column} is generated, and the broker writes it"),
                    format!(
                        "`alter table {table} alter column {column} drop expression`, or drop its identity"
                    ),
                )
            }
            "42P10" => (
                "no unique index agent_messages_dedupe on (from_agent_id, dedupe_key)".to_owned(),
                "Drop what has that name instead, then migrate".to_owned(),
            ),
            "42501" => (
                format!("the database says: {}", self.said),
                "Connect as the owner of the tables, or grant it the right".to_owned(),
            ),
            state if OF_THE_SCHEMA.contains(&state.get(..2).unwrap_or_default()) => {
                (format!("the database says: {}", self.said), "Mend that, then try again".to_owned())
            }
            state => (
                format!("the row is refused with the error {state}"),
                "Look it up in the appendix of Postgres's documentation, and mend what raises it".to_owned(),
            ),
        };
        (why, advice)
    }

    fn duplicates(&self, table: &str, index: &str) -> (String, String) {
        let key = self.key.as_deref().unwrap_or("its columns");
        let find = format!("select {key}, count(*) from {table} group by {key} having count(*) > 1");
        (
            format!("the unique index {index} cannot be made, since rows have the same ({key})"),
            format!("Find them with `{find}`, and change all but one of each"),
        )
    }

    fn too_short(&self, table: &str) -> (String, String) {
        let narrow = self.narrow.as_deref().unwrap_or_default();
        let names = narrow.iter().filter_map(|column| column.split(' ').next());
        let wider: Vec<_> = names.map(|name| format!("alter column {name} type text")).collect();
        match narrow {
            [] => ("a column is too short".to_owned(), format!("See in `\\d {table}` which it is")),
            _ => (
                format!("column {} is too short", narrow.join(" or ")),
                format!("`alter table {table} {}`", wider.join(", ")),
            ),
        }
    }
}

fn triggers(names: &[String]) -> String {
    match names {
        [one] => format!("the trigger {one}"),
        several => format!("one of the triggers {}", several.join(", ")),
    }
}

fn named(rules: &[Rule]) -> String {
    let names: Vec<_> = rules.iter().map(|rule| format!("{} of {}", rule.name, rule.of)).collect();
    match rules {
        [_] => format!("the rule {}", names.join(", ")),
        _ => format!("the rules {}", names.join(", ")),
    }
}

fn dropped(rule: &Rule) -> String {
    format!("`drop rule {} on {}`", rule.name, rule.of)
}

/// The ways in which a role can see every row.
fn see_all(table: &str, role: &str) -> String {
    format!(
        "connect as the owner of {table} with `alter table {table} no force row level security`, or `alter role {role} \
         bypassrls`"
    )
}
