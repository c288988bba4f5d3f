//! `postbell migrate --status`: the state of each migration and trigger.

use std::time::SystemTime;

use super::embedded::{MIGRATIONS, TRIGGERS, digest};
use super::state::{Found, SchemaState, TriggerState};
use crate::base::moment;
use crate::store::connection::Connection;
use crate::store::error::StoreError;

/// A migration or trigger that this binary or the database has.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct StatusLine {
    /// `migration` or `trigger`.
    pub kind: &'static str,
    /// The migration's file name without ending, or the trigger's name in Postgres.
    pub name: String,
    /// A migration is `applied`, `pending`, `changed` (another text was applied) or `unknown` (of a newer Postbell);
    /// a trigger is `installed`, `missing`, `disabled` or `outdated`.
    pub state: &'static str,
    /// The time at which it was applied or installed.
    #[serde(serialize_with = "moment::serialize")]
    pub applied_at: Option<SystemTime>,
    /// The database role that applied it; `None` for a trigger.
    pub by: Option<String>,
}

/// The migrations, the triggers and the state of the whole.
#[derive(Clone, Debug)]
pub struct SchemaStatus {
    /// Migrations by version, then triggers.
    pub lines: Vec<StatusLine>,
    /// The state of the whole, as `serve` judges it.
    pub state: SchemaState,
}

/// Reads the status; changes nothing.
///
/// # Errors
/// See [`StoreError`].
pub async fn status(connection: &Connection) -> Result<SchemaStatus, StoreError> {
    let found = Found::read(connection).await?;
    let mut lines = migrations(&found);
    lines.extend(triggers(&found));
    Ok(SchemaStatus { lines, state: found.state() })
}

fn migrations(found: &Found) -> Vec<StatusLine> {
    let known = MIGRATIONS.iter().map(|m| {
        let applied = found.applied.iter().find(|a| a.version == m.version);
        let state = match applied {
            None => "pending",
            Some(a) if a.sha256 == digest(m.sql) => "applied",
            Some(_) => "changed",
        };
        let (applied_at, by) = applied.map(|a| (a.applied_at, a.by.clone())).unzip();
        StatusLine { kind: "migration", name: m.label(), state, applied_at, by }
    });
    let newer = found.applied.iter().filter(|a| MIGRATIONS.iter().all(|m| m.version != a.version));
    let newer = newer.map(|a| StatusLine {
        kind: "migration",
        name: format!("{:04}_{}", a.version, a.name),
        state: "unknown",
        applied_at: Some(a.applied_at),
        by: Some(a.by.clone()),
    });
    known.chain(newer).collect()
}

fn triggers(found: &Found) -> impl Iterator<Item = StatusLine> {
    TRIGGERS.iter().map(|trigger| {
        let state = match found.trigger_state(trigger) {
            TriggerState::Missing => "missing",
            TriggerState::Disabled => "disabled",
            TriggerState::Outdated => "outdated",
            TriggerState::Current => "installed",
        };
        let installed = found.triggers.iter().find(|t| t.name == trigger.name && t.enabled.is_some());
        let applied_at = installed.map(|t| t.applied_at);
        StatusLine { kind: "trigger", name: trigger.full_name(), state, applied_at, by: None }
    })
}
