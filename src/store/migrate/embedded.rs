//! The SQL that this binary carries: migrations, which are history, and triggers, which are as they must be now.

use sha2::{Digest, Sha256};

use super::concurrently::statements;

/// A step of the schema's history, whose text is never edited once it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// 1, 2, 3 and so on without a gap.
    pub version: i32,
    /// The file's name without number and ending.
    pub name: &'static str,
    /// The SQL that it runs.
    pub sql: &'static str,
    /// The steps that come before it, outside of a transaction, where a table of the user's holds rows; empty for most.
    pub beforehand: &'static str,
    /// Whether its own statements run one by one, outside of a transaction: a file `NUMBER_NAME.concurrently.sql`.
    pub concurrently: bool,
}

/// A trigger on one of the user's tables, with its function: one file of `triggers/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The file's name without ending; the trigger is called `postbell_` and this name.
    pub name: &'static str,
    /// The SQL that installs it, also over an older one.
    pub sql: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// The migrations that create or adopt tables of the user's.
pub(super) const ADOPTING: &[(i32, &str)] =
    &[(2, "agent_messages"), (2, "agent_registry"), (13, "agent_alerts"), (14, "agent_metrics")];

/// The trigger that makes deliveries. While this trigger is absent, messages wait without one.
pub(super) const ROUTE: &str = "route";

/// The trigger that fires where the others do not.
pub(super) const UNSEEN: &str = "unseen";

/// The version that this binary works with.
pub fn version_wanted() -> i32 {
    MIGRATIONS.last().map_or(0, |m| m.version)
}

impl Migration {
    /// The file's name without ending: `0002_agent_tables`.
    pub fn label(&self) -> String {
        format!("{:04}_{}", self.version, self.name)
    }

    /// The text as it is sent: whole, or one statement at a time where that runs outside of a transaction.
    pub fn statements(&self) -> Vec<String> {
        match self.concurrently {
            true => statements(self.sql),
            false => vec![self.sql.to_owned()],
        }
    }

    /// The statements of the steps before it.
    pub fn statements_beforehand(&self) -> Vec<String> {
        statements(self.beforehand)
    }

    /// The steps that run outside of a transaction: its own, or those before it.
    pub(super) fn loose(&self) -> &'static str {
        if self.concurrently { self.sql } else { self.beforehand }
    }
}

impl Trigger {
    /// The trigger's name in Postgres.
    pub fn full_name(&self) -> String {
        format!("postbell_{}", self.name)
    }
}

/// SHA-256 of a text in hexadecimal, as it is recorded for a migration or trigger.
pub(super) fn digest(sql: &str) -> String {
    Sha256::digest(sql.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_without_a_gap() {
        let versions: Vec<_> = MIGRATIONS.iter().map(|m| m.version).collect();
        assert_eq!(versions, (1..=version_wanted()).collect::<Vec<_>>());
    }

    #[test]
    fn every_file_of_the_folders_is_listed() {
        let ending = |m: &Migration| if m.concurrently { ".concurrently.sql" } else { ".sql" };
        let listed: Vec<_> = MIGRATIONS.iter().map(|m| m.label() + ending(m)).collect();
        assert_eq!(files("sql/migrations"), listed);
        let listed: Vec<_> = TRIGGERS.iter().map(|t| format!("{}.sql", t.name)).collect();
        assert_eq!(files("triggers"), listed);
    }

    fn files(folder: &str) -> Vec<String> {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let entries = std::fs::read_dir(path).expect("folder");
        let names = entries.map(|e| e.expect("entry").file_name().into_string().expect("UTF-8"));
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".sql")).collect();
        names.sort();
        names
    }

    #[test]
    fn every_trigger_makes_what_its_name_says() {
        for trigger in TRIGGERS {
            assert!(trigger.sql.contains(&format!("create trigger {}\n", trigger.full_name())));
        }
    }

    #[test]
    fn a_digest_is_sha_256() {
        let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest(""), empty);
    }
}
