//! Steps that run outside of a transaction, so that an index is built while producers write.
//!
//! CREATE INDEX within a migration's transaction keeps writers out for as long as the table is read. So the indexes that a
//! migration makes on tables of the user's are built before it, under the names that the migration looks for
//! (`sql/beforehand`), and a migration that makes nothing but such indexes is a file of its own kind. Each step looks first
//! at what is there. So a run that was ended in the middle is simply followed by the next.

mod patience;
mod site;
mod statement;

pub(in crate::store) use statement::{IndexWanted, statements};

use super::embedded::Migration;
use super::roll_back;
use crate::store::connection::{Connection, Target};
use crate::store::error::StoreError;
use patience::patiently;
use site::{IndexSite, SiteState, sites};
use statement::{LooseStep, without_indexes};

/// How long the mending of an index waits for each transaction that is open. A migration waits for any time.
const MEND_WAIT: &str = "30s";

/// A step that is still to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum DueStep {
    /// Columns without which the index cannot be made.
    Columns { table: String, sql: String },
    /// An index on a table, or on a part of it.
    Build { index: IndexWanted, site: IndexSite },
    /// An index that goes.
    Drop { sql: String },
}

/// The steps of one migration that are still to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DueSteps {
    pub(super) migration: &'static Migration,
    pub(super) steps: Vec<DueStep>,
}

impl DueSteps {
    /// The indexes that are to be built, each with its table.
    pub(super) fn builds(&self) -> Vec<String> {
        let built = |step: &DueStep| match step {
            DueStep::Build { site, .. } => Some(format!("{} on {}", site.index, site.table)),
            DueStep::Columns { .. } | DueStep::Drop { .. } => None,
        };
        self.steps.iter().filter_map(built).collect()
    }

    /// The migration's text for the rehearsal: without the indexes that are built outside of its transaction, and else with
    /// them.
    pub(super) fn rehearsed(&self) -> String {
        let Migration { sql, concurrently, .. } = self.migration;
        match (self.builds().is_empty(), concurrently) {
            (true, true) => sql.replace(" index concurrently ", " index "),
            (true, false) => (*sql).to_owned(),
            (false, true) => String::new(),
            (false, false) => without_indexes(sql, self.migration.loose()),
        }
    }

    /// The indexes that are to be built, each once.
    pub(super) fn indexes(&self) -> impl Iterator<Item = &IndexWanted> {
        let mut all: Vec<_> = self.steps.iter().filter_map(DueStep::index).collect();
        all.dedup();
        all.into_iter()
    }
}

impl DueStep {
    fn index(&self) -> Option<&IndexWanted> {
        match self {
            Self::Build { index, .. } => Some(index),
            Self::Columns { .. } | Self::Drop { .. } => None,
        }
    }
}

/// Returns the steps of a migration that are to be made. Before a migration that makes the indexes itself, these are only
/// indexes of tables that hold rows.
///
/// # Errors
/// A sentence: something of the user's has an index's name.
pub(super) async fn due(
    connection: &Connection,
    migration: &'static Migration,
) -> Result<DueSteps, StoreError> {
    due_of(connection, migration.loose(), migration.concurrently)
        .await
        .map(|steps| DueSteps { migration, steps })
}

async fn due_of(connection: &Connection, loose: &str, is_its_own: bool) -> Result<Vec<DueStep>, StoreError> {
    let mut steps = Vec::new();
    for sql in statements(loose) {
        match LooseStep::parse(&sql) {
            Some(LooseStep::Columns { table, sql }) => steps.push(DueStep::Columns { table, sql }),
            Some(LooseStep::Drop { sql }) => steps.push(DueStep::Drop { sql }),
            Some(LooseStep::Build(index)) => {
                let found = sites(connection, &index).await?;
                if let Some(site) = found.iter().find(|site| site.state == SiteState::Taken) {
                    return Err(taken(&index, site));
                }
                let is_due = |site: &IndexSite| site.is_open() && (is_its_own || site.has_rows);
                steps.extend(
                    found
                        .into_iter()
                        .filter(is_due)
                        .map(|site| DueStep::Build { index: index.clone(), site }),
                );
            }
            None => return Err(StoreError::refused(format!("this is no step that runs by itself: {sql}"))),
        }
    }
    // Columns are there for the indexes alone.
    if !is_its_own && !steps.iter().any(|step| matches!(step, DueStep::Build { .. })) {
        steps.clear();
    }
    Ok(steps)
}

/// The sentence about something of the user's that has an index's name, and is left alone.
fn taken(index: &IndexWanted, site: &IndexSite) -> StoreError {
    let (name, an) = (&site.full_name, if index.is_unique { "a unique" } else { "an" });
    StoreError::refused(format!(
        "{name} is something of your own, and Postbell needs {an} index {} on {} {}: give yours another name (`alter \
         index {name} rename to …`), and Postbell makes its own",
        site.index, site.table, index.definition
    ))
}

/// Makes the steps of a migration that are due.
///
/// # Errors
/// A sentence that names the index. Nothing of an index that could not be built remains.
pub(super) async fn make(connection: &Connection, target: &Target, due: &DueSteps) -> Result<(), StoreError> {
    for step in &due.steps {
        match step {
            DueStep::Columns { sql, .. } => in_transaction(connection, sql).await?,
            DueStep::Drop { sql } => patiently(connection, target, sql).await?,
            DueStep::Build { index, site } => build(connection, target, index, site).await?,
        }
    }
    Ok(())
}

async fn build(
    connection: &Connection,
    target: &Target,
    index: &IndexWanted,
    site: &IndexSite,
) -> Result<(), StoreError> {
    let (name, table) = (&site.index, &site.table);
    let drop = format!("drop index concurrently if exists {}", site.full_name);
    if site.state == SiteState::Left {
        tracing::info!(
            index = name,
            table,
            "the index was left by a build that was interrupted; it is built anew"
        );
        patiently(connection, target, &drop).await?;
    }
    tracing::info!(index = name, table, "building an index; those who write to the table go on");
    let Err(error) = patiently(connection, target, &index.build(site)).await else { return Ok(()) };
    if let Err(error) = clear_up(connection, target, index, site, &drop).await {
        tracing::debug!(%error, "an index that could not be built is left to the next migration");
    }
    let sentence = format!("index {name} could not be built on {table}: {error}");
    Err(match error.is_retryable() {
        true => StoreError::unavailable(sentence),
        false => StoreError::refused(sentence),
    })
}

/// Removes what is left of an index that could not be built: an invalid one that is unique refuses rows all the same.
async fn clear_up(
    connection: &Connection,
    target: &Target,
    index: &IndexWanted,
    site: &IndexSite,
    drop: &str,
) -> Result<(), StoreError> {
    let found = sites(connection, index).await?;
    let is_left = found.iter().any(|s| s.full_name == site.full_name && s.state == SiteState::Left);
    if is_left { patiently(connection, target, drop).await } else { Ok(()) }
}

/// Makes an index that is missing or left over: where its table holds rows, while others write.
///
/// # Errors
/// The errors of [`make`], and something of the user's has the index's name.
pub(super) async fn mend(connection: &Connection, target: &Target, remake: &str) -> Result<(), StoreError> {
    let Some(index) = IndexWanted::parse(remake) else {
        return Err(StoreError::refused(format!(
            "this makes no index that can be built by itself: {remake}"
        )));
    };
    let found = sites(connection, &index).await?;
    if let Some(site) = found.iter().find(|site| site.state == SiteState::Taken) {
        return Err(taken(&index, site));
    }
    connection.batch(&format!("set lock_timeout = '{MEND_WAIT}'")).await?;
    let mut made = Ok(());
    for site in found.iter().filter(|site| site.is_open()) {
        made = match site.has_rows {
            true => build(connection, target, &index, site).await,
            false => make_empty(connection, &index, site).await,
        };
        if made.is_err() {
            break;
        }
    }
    connection.batch("set lock_timeout = 0").await?;
    made
}

/// Makes the index of a table that holds nothing, for which nobody need wait.
async fn make_empty(
    connection: &Connection,
    index: &IndexWanted,
    site: &IndexSite,
) -> Result<(), StoreError> {
    let drop = match site.state {
        SiteState::Left => format!("drop index {};", site.full_name),
        _ => String::new(),
    };
    in_transaction(connection, &format!("{drop} {}", index.make(site))).await
}

async fn in_transaction(connection: &Connection, sql: &str) -> Result<(), StoreError> {
    let done = connection.batch(&format!("{}; {sql}; commit", super::BEGIN)).await;
    if done.is_err() {
        roll_back(connection).await;
    }
    done
}
