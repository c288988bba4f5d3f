//! `postbell policies`: rights and row level policies for the roles of Supabase's API. An operator applies them, and
//! `postbell migrate` never does, since the pollers of a mesh depend on the rights that they have.

use serde::Serialize;

use super::state::schema_state;
use super::{BEGIN, LOCK_KEY, SESSION, lock, roll_back};
use crate::store::cell::Cells;
use crate::store::connection::{Connection, Target};
use crate::store::error::StoreError;
use crate::store::sql::{policies, queries};

/// A file of `sql/policies`, which can also be applied over an older one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// The file's name without ending.
    pub name: &'static str,
    /// The state after it was applied, in a sentence.
    pub does: &'static str,
    /// The SQL that it runs.
    pub sql: &'static str,
}

/// The file that creates the roles of Supabase's API if they are missing.
pub const ROLES: PolicyFile =
    PolicyFile { name: "roles", does: "anon, authenticated and service_role exist", sql: policies::ROLES };

/// Every other file, in the order in which they are applied.
pub const POLICIES: &[PolicyFile] = &[
    PolicyFile {
        name: "claims",
        does: "policies know the agent of the token's claim app_metadata.agent_id",
        sql: policies::CLAIMS,
    },
    PolicyFile {
        name: "agent_messages",
        does: "authenticated sends as its agent, reads what is its agent's, and marks what was sent to it; anon nothing",
        sql: policies::AGENT_MESSAGES,
    },
    PolicyFile {
        name: "agent_registry",
        does: "authenticated sees the agents without their tokens, and writes its own heartbeat; anon nothing",
        sql: policies::AGENT_REGISTRY,
    },
    PolicyFile {
        name: "agent_alerts",
        does: "authenticated raises its agent's alerts and acknowledges those, an orchestrator any; all agents see them; anon nothing",
        sql: policies::AGENT_ALERTS,
    },
    PolicyFile {
        name: "agent_metrics",
        does: "authenticated writes what its agent measures; all agents see it; anon nothing",
        sql: policies::AGENT_METRICS,
    },
    PolicyFile { name: "closed", does: "schema postbell is closed to all three", sql: policies::CLOSED },
];

/// The changes, and what an administrator should know of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Roles that were created.
    pub created_roles: Vec<String>,
    /// The names of the files that were applied.
    pub files: Vec<&'static str>,
    /// Policies that existed before; they can open no more than ours now.
    pub foreign: Vec<String>,
    /// Roles with rights of their own on a table whose row level security was off: they see no row now.
    pub shut_out: Vec<String>,
}

/// Applies every policy in one transaction. A second call changes nothing.
///
/// # Errors
/// The schema is not that of this version, a role is missing and was not to be created, or this role lacks the
/// rights. In each case nothing was changed.
pub async fn apply(target: &Target, create_roles: bool) -> Result<Applied, StoreError> {
    let connection = Connection::open(target).await?;
    connection.batch(SESSION).await?;
    if let Some(refusal) = schema_state(&connection).await?.refusal() {
        return Err(StoreError::refused(refusal));
    }
    lock(&connection).await?;
    let done = apply_locked(&connection, create_roles).await;
    let unlocked = connection.query(queries::MIGRATIONS_UNLOCK, &[&LOCK_KEY]).await;
    let done = done?;
    unlocked?;
    Ok(done)
}

async fn apply_locked(connection: &Connection, create_roles: bool) -> Result<Applied, StoreError> {
    let found = connection.query_one(queries::POLICIES_FOUND, &[]).await?;
    let missing: Vec<String> = found.cell("missing")?;
    if !missing.is_empty() && !create_roles {
        return Err(StoreError::refused(format!(
            "this database has no role {}, so nothing was applied: on Supabase they are there from the start; where \
             PostgREST stands before a Postgres of your own, `postbell policies apply --create-roles` makes them \
             (nobody can log in as one); where nothing but the broker and its owner connect, no policies are needed",
            missing.join(", ")
        )));
    }
    let files: Vec<&PolicyFile> =
        (!missing.is_empty()).then_some(&ROLES).into_iter().chain(POLICIES).collect();
    if let Err(error) = in_transaction(connection, &files).await {
        roll_back(connection).await;
        return Err(StoreError::refused(format!(
            "the policies were not applied, and nothing of them remains: {error}"
        )));
    }
    Ok(Applied {
        created_roles: missing,
        files: files.iter().map(|f| f.name).collect(),
        foreign: found.cell("foreign")?,
        shut_out: found.cell("shut_out")?,
    })
}

async fn in_transaction(connection: &Connection, files: &[&PolicyFile]) -> Result<(), StoreError> {
    connection.batch(BEGIN).await?;
    for file in files {
        connection.batch(file.sql).await?;
    }
    connection.batch("commit").await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("sql/policies");
        let entries = std::fs::read_dir(folder).expect("folder");
        let names = entries.map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".sql")).collect();
        names.sort();
        let mut listed: Vec<_> = [ROLES].iter().chain(POLICIES).map(|f| format!("{}.sql", f.name)).collect();
        listed.sort();
        assert_eq!(names, listed);
    }
}
