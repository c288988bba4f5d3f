//! The stage of the scenarios: a server, a database for each scenario, and a broker in a process of its own.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, bail};
use postbell::devdb::{Data, DevPostgres, Options};
use tempfile::TempDir;
use tokio::process::Command;
use tokio_postgres::NoTls;

use crate::broker::{Broker, Ports};
use crate::slow_flush;

/// A connection of a plain SQL client.
pub(crate) type Sql = tokio_postgres::Client;

/// The hidden command under which this program is the broker, so that both are always of one build.
pub(crate) const BROKER_COMMAND: &str = "postbell";
/// Enough for writers, the broker, and whatever watches them.
const CONNECTIONS: &str = "400";

/// How to set the stage.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// A server to use instead of a private one; its role must be allowed to create databases.
    pub(crate) database_url: Option<String>,
    /// Another broker program than this build's.
    pub(crate) broker: Option<PathBuf>,
    /// By how many milliseconds each flush is delayed.
    pub(crate) slow_flush_ms: f64,
}

/// The server, and the programs that run on it.
pub(crate) struct Stage {
    url: String,
    broker: Option<PathBuf>,
    databases: AtomicU32,
    folder: TempDir,
    // The last field, so that the server stops when the rest is gone.
    server: Option<DevPostgres>,
}

impl Stage {
    /// Starts a private server, on which a COMMIT is as safe as in production, or takes the one that is named.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub(crate) fn set(wanted: &Wanted) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("postbell-loadtest-").tempdir()?;
        if wanted.database_url.is_some() && wanted.slow_flush_ms > 0.0 {
            bail!(
                "--slow-flush changes the server's process: it needs a private server, without --database-url"
            );
        }
        open_to_all(&folder)?;
        let server = match wanted.database_url {
            Some(_) => None,
            None => Some(private_server(slow_flush::environment(folder.path(), wanted.slow_flush_ms)?)?),
        };
        let url = match (&wanted.database_url, &server) {
            (Some(url), _) => url.clone(),
            (None, Some(server)) => server.url(),
            (None, None) => bail!("there is no server"),
        };
        Ok(Self { url, broker: wanted.broker.clone(), databases: AtomicU32::new(0), folder, server })
    }

    /// Makes a database with Postbell's schema in it.
    ///
    /// # Errors
    /// The server refuses, or the migration fails.
    pub(crate) async fn database(&self) -> anyhow::Result<Database> {
        let database = self.empty_database().await?;
        let mut command = self.postbell(&database);
        let migrated = command.arg("migrate").output().await?;
        if !migrated.status.success() {
            bail!("`postbell migrate` failed: {}", String::from_utf8_lossy(&migrated.stderr).trim());
        }
        Ok(database)
    }

    /// Makes a database without anything in it.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn empty_database(&self) -> anyhow::Result<Database> {
        let n = self.databases.fetch_add(1, Ordering::Relaxed);
        let name = format!("postbell_loadtest_{}_{n}", std::process::id());
        let admin = sql(&self.url).await?;
        admin.batch_execute(&format!("create database {name}")).await.with_context(|| {
            format!("the load test needs a role that may create databases; {name} could not be made")
        })?;
        // The pages that the scenario before left to write must not burden this one. Not every role may ask for a
        // checkpoint.
        let _ = admin.batch_execute("checkpoint").await;
        Ok(Database { admin: self.url.clone(), url: with_database(&self.url, &name)?, name })
    }

    /// Starts a broker on a database and waits until it is ready.
    ///
    /// # Errors
    /// The broker ended, or was not ready in time.
    pub(crate) async fn broker(&self, database: &Database) -> anyhow::Result<Broker> {
        self.broker_at(database, Ports::free()?).await
    }

    /// Starts a broker where another one listened before.
    ///
    /// # Errors
    /// See [`broker`](Self::broker).
    pub(crate) async fn broker_at(&self, database: &Database, ports: Ports) -> anyhow::Result<Broker> {
        Broker::start(self.postbell(database), self.folder.path(), ports).await
    }

    /// The version of the server.
    ///
    /// # Errors
    /// The server does not answer.
    pub(crate) async fn server_version(&self) -> anyhow::Result<String> {
        Ok(sql(&self.url).await?.query_one("show server_version", &[]).await?.get(0))
    }

    /// The server's settings that bear on the figures.
    ///
    /// # Errors
    /// The server does not answer.
    pub(crate) async fn settings(&self) -> anyhow::Result<Vec<(String, String)>> {
        let asked = "select name, setting || coalesce(unit, '') from pg_settings where name in ('fsync', \
                     'synchronous_commit', 'full_page_writes', 'wal_sync_method', 'wal_level', 'shared_buffers', \
                     'max_wal_size', 'commit_delay', 'max_connections', 'autovacuum', 'data_checksums') order by 1";
        let rows = sql(&self.url).await?.query(asked, &[]).await?;
        Ok(rows.iter().map(|row| (format!("postgres {}", row.get::<_, String>(0)), row.get(1))).collect())
    }

    /// Ends the server.
    ///
    /// # Errors
    /// The server does not stop.
    pub(crate) fn strike(self) -> anyhow::Result<()> {
        self.server.map_or(Ok(()), |server| Ok(server.stop()?))
    }

    fn postbell(&self, database: &Database) -> Command {
        let mut command = match &self.broker {
            Some(program) => Command::new(program),
            None => {
                let mut command = Command::new(std::env::current_exe().unwrap_or_else(|_| "loadtest".into()));
                command.arg(BROKER_COMMAND);
                command
            }
        };
        command.env_clear().env("DATABASE_URL", &database.url);
        command
    }
}

/// Opens the folder to all: a server under another account could not load the library that delays its flushes.
fn open_to_all(folder: &TempDir) -> anyhow::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    }
    let _ = folder;
    Ok(())
}

fn private_server(environment: Vec<(String, String)>) -> anyhow::Result<DevPostgres> {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Ok(DevPostgres::start(Options {
        data: Data::Temporary,
        bin_dir: std::env::var_os("POSTBELL_TEST_PG").map(Into::into),
        // A temporary server is lax by default: here it must be what production is.
        settings: vec![
            setting("fsync", "on"),
            setting("full_page_writes", "on"),
            setting("synchronous_commit", "on"),
            setting("max_connections", CONNECTIONS),
        ],
        environment,
    })?)
}

/// A scenario's database.
pub(crate) struct Database {
    admin: String,
    url: String,
    name: String,
}

impl Database {
    /// A plain SQL client.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn sql(&self) -> anyhow::Result<Sql> {
        sql(&self.url).await
    }

    /// The database's URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Removes it.
    ///
    /// # Errors
    /// The server refuses.
    pub(crate) async fn remove(self) -> anyhow::Result<()> {
        let drop = format!("drop database {} with (force)", self.name);
        Ok(sql(&self.admin).await?.batch_execute(&drop).await?)
    }
}

async fn sql(url: &str) -> anyhow::Result<Sql> {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.context("the database cannot be reached")?;
    tokio::spawn(async move {
        // The user of the client learns of an error by the next answer.
        let _ = connection.await;
    });
    Ok(client)
}

/// The URL of another database on the same server.
fn with_database(url: &str, name: &str) -> anyhow::Result<String> {
    let fault = || {
        format!("the database's URL must look like postgres://user:password@host:5432/database, not {url:?}")
    };
    let after_scheme = url.find("://").with_context(fault)? + 3;
    let (rest, options) = match url.find('?') {
        Some(at) => url.split_at(at),
        None => (url, ""),
    };
    let end = rest[after_scheme..].find('/').map_or(rest.len(), |at| after_scheme + at);
    Ok(format!("{}/{name}{options}", &rest[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_leads_to_another_database_of_its_server() {
        let other = |url| with_database(url, "x").ok();
        assert_eq!(other("postgres://u:p@h:5432/d").as_deref(), Some("postgres://u:p@h:5432/x"));
        assert_eq!(other("postgres://h").as_deref(), Some("postgres://h/x"));
        assert_eq!(
            other("postgres://h/d?sslmode=disable").as_deref(),
            Some("postgres://h/x?sslmode=disable")
        );
        assert_eq!(other("h/d"), None);
    }
}
