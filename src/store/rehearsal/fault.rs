//! Judges the faults that a rehearsal found; faults with one cause become one sentence.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::Rehearsed;
use crate::store::error::StoreError;
use postbell_client::message::MessageType;

/// The most consequences that a sentence lists.
const SO_MAX: usize = 6;

/// The result as sql/queries/rehearsal.sql writes it.
#[derive(Deserialize)]
pub(super) struct Found {
    pub(super) schema: String,
    pub(super) role: String,
    /// The goals and steps that were reached, with the way if there are several.
    pub(super) reached: BTreeMap<String, Option<String>>,
    pub(super) deliveries: Option<u64>,
    /// Waiting messages to many that have no recipient, by the column that addresses them.
    pub(super) unreached: BTreeMap<String, u64>,
    pub(super) faults: Vec<Fault>,
}

/// A step that failed: its description in steps.rs, and columns of the server's error and of the catalogs.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Fault {
    pub(super) level: String,
    /// The table of the step; `None` for a migration or a trigger.
    pub(super) table: Option<String>,
    /// The consequence of the fault; for a migration its name.
    pub(super) so: String,
    pub(super) goal: Option<String>,
    /// The consequence if the goal was reached another way, such as by a row like the mesh's own.
    pub(super) otherwise: Option<String>,
    /// The type of the messages that the step sends.
    pub(super) r#type: Option<String>,
    /// The only errors that make this step a fault.
    pub(super) only: Option<Vec<String>>,
    pub(super) sqlstate: String,
    pub(super) said: String,
    pub(super) of_schema: Option<String>,
    pub(super) of_table: Option<String>,
    pub(super) column: Option<String>,
    pub(super) constraint: Option<String>,
    /// The columns of a key that exists twice.
    pub(super) key: Option<String>,
    /// Whether row level security applies to this role.
    pub(super) row_security: Option<bool>,
    pub(super) triggers: Option<Vec<String>>,
    pub(super) rules: Option<Vec<Rule>>,
    pub(super) default: Option<String>,
    /// Columns that are too short for the written values, with their types.
    pub(super) narrow: Option<Vec<String>>,
}

/// A rule of the user's.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Rule {
    pub(super) name: String,
    /// The table that the rule is of, with the schema.
    pub(super) of: String,
}

/// The step had no row to try. Codes that begin with PB are sql/queries/rehearsal.sql's own.
const NOTHING_THERE: &str = "PB000";

/// The faults of one cause.
struct Cause {
    refuses: bool,
    why: String,
    so: Vec<String>,
    advice: String,
}

impl Found {
    /// Sorts the faults into refusals and warnings.
    ///
    /// # Errors
    /// A sentence: a lock was not given, so nothing is known.
    pub(super) fn judge(self) -> Result<Rehearsed, StoreError> {
        if let Some(held) = self.faults.iter().find(|f| matches!(f.sqlstate.as_str(), "55P03" | "40P01")) {
            return Err(held.lock());
        }
        let mut rehearsed =
            Rehearsed { deliveries: self.deliveries, took: Duration::ZERO, ..Rehearsed::default() };
        rehearsed.warnings.extend(self.unreached());
        for cause in self.causes() {
            let to = if cause.refuses { &mut rehearsed.refusals } else { &mut rehearsed.warnings };
            to.push(cause.sentence());
        }
        Ok(rehearsed)
    }

    /// Warns of waiting messages without a recipient: they would be over although nobody had them.
    fn unreached(&self) -> impl Iterator<Item = String> {
        let table = format!("{}.agent_messages", self.schema);
        self.unreached.iter().filter(|(_, n)| **n > 0).map(move |(column, n)| match column.as_str() {
            "all" => format!("{table}: {n} messages that wait are for all, and no agent but their sender is registered"),
            _ => format!(
                "{table}: {n} messages that wait have something in column {column} that no agent wants or is in, so nobody \
                 gets them. If they are for all, set it to null before you migrate"
            ),
        })
    }

    fn causes(&self) -> Vec<Cause> {
        // A table may take only some types. Agents can send nothing only if the table takes none.
        let sends = self.faults.iter().filter(|f| f.r#type.is_some()).count() < MessageType::ALL.len();
        let mut causes: Vec<Cause> = Vec::new();
        for fault in &self.faults {
            let refuses = match self.weight(fault, sends) {
                Weight::NoFault => continue,
                Weight::Warns => false,
                Weight::Refuses => true,
            };
            let so = match (&fault.r#type, &fault.otherwise) {
                (Some(_), _) if !sends => "agents cannot send".to_owned(),
                (_, Some(otherwise)) if self.way(fault).is_some() => otherwise.clone(),
                _ => fault.so.clone(),
            };
            let (why, advice) = fault.explain(&self.schema, &self.role);
            match causes.iter_mut().find(|c| c.why == why) {
                Some(cause) => {
                    cause.refuses |= refuses;
                    if !cause.so.contains(&so) {
                        cause.so.push(so);
                    }
                }
                None => causes.push(Cause { refuses, why, so: vec![so], advice }),
            }
        }
        causes
    }

    fn weight(&self, fault: &Fault, sends: bool) -> Weight {
        if fault.sqlstate == NOTHING_THERE
            || fault.only.as_ref().is_some_and(|only| !only.contains(&fault.sqlstate))
        {
            return Weight::NoFault;
        }
        let refuses = fault.level == "refuse" || (!sends && fault.r#type.is_some());
        match self.way(fault) {
            None if refuses => Weight::Refuses,
            Some("own") => Weight::NoFault,
            None | Some(_) => Weight::Warns,
        }
    }

    /// The way by which the goal of the step was reached all the same.
    fn way(&self, fault: &Fault) -> Option<&str> {
        self.reached.get(fault.goal.as_ref()?)?.as_deref()
    }
}

/// How much a fault weighs.
enum Weight {
    /// No fault: nothing could be tried, the error is not the one of `only`, or Postbell's own words reached the goal.
    NoFault,
    /// Also if only rows like the mesh's own reached the goal.
    Warns,
    Refuses,
}

impl Cause {
    fn sentence(&self) -> String {
        let so = match self.so.len() {
            n if n > SO_MAX => format!("{}; and {} things more", self.so[..SO_MAX].join("; "), n - SO_MAX),
            _ => self.so.join("; "),
        };
        // A name keeps its first letter.
        let why = match self.why.split(' ').next() {
            Some("the" | "one") => capital(&self.why),
            _ => self.why.clone(),
        };
        // For a migration the reason already says what was not applied.
        match self.so.iter().any(|so| why.starts_with(so.as_str())) {
            true => format!("{why}. {}", self.advice),
            false => format!("{why}, so {so}. {}", self.advice),
        }
    }
}

impl Fault {
    /// The error if another transaction holds a table or row that the step needs.
    fn lock(&self) -> StoreError {
        let held = "another transaction holds the table, or rows of it; try again when it has ended";
        StoreError::unavailable(match self.table {
            None => self.not_applied(held),
            Some(_) => format!("this could not be tried: {held}"),
        })
    }

    pub(super) fn not_applied(&self, why: &str) -> String {
        format!("{} was not applied, and nothing of it remains: {why}", self.so)
    }
}

pub(super) fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
