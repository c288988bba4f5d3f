//! The server: on a file system of its own where the machine allows it, so that its disk can be filled.
//!
//! The server runs as in production, with `fsync` on. An immediate shutdown ends processes and not the machine, so
//! written data would survive even without the flush. But a COMMIT waits for the flush, and its outcome must stay
//! open for as long as in production.

mod disk;
mod failover;

use std::path::{Path, PathBuf};

use anyhow::Context;
use postbell::devdb::{Data, DevPostgres, Options};
use tokio::task::spawn_blocking;
use tokio_postgres::NoTls;

use crate::schedule::Backend;
use disk::Disk;

pub use failover::Standby;

/// A connection of a plain SQL client.
pub type Sql = tokio_postgres::Client;

/// Enough for brokers, producers, and whatever watches them.
const CONNECTIONS: &str = "200";

/// The server of a campaign.
pub struct Server {
    // `None` while the server is being stopped or started on another thread.
    dev: Option<DevPostgres>,
    url: String,
    folder: PathBuf,
    disk: Option<Disk>,
    /// How many standbys there were so far: each has a folder of its own.
    generation: u32,
}

impl Server {
    /// Starts a server in a folder, for a campaign of so many hours.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub async fn start(folder: PathBuf, hours: f64) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        let disk = Disk::for_hours(&folder, hours).await;
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = Options {
            data: Data::Kept(folder.clone()),
            bin_dir: std::env::var_os("POSTBELL_TEST_PG").map(Into::into),
            settings: vec![
                setting("max_connections", CONNECTIONS),
                setting("max_wal_size", "256MB"),
                setting("log_line_prefix", "%m [%p] %q%a "),
            ],
            environment: Vec::new(),
        };
        let dev = spawn_blocking(|| DevPostgres::start(options)).await??;
        Ok(Self { url: dev.url(), dev: Some(dev), folder, disk, generation: 0 })
    }

    /// The server's URL, without a proxy.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Whether its disk can be filled.
    pub fn has_disk(&self) -> bool {
        self.disk.is_some()
    }

    /// Stops the server: by a crash if `immediate`, else after rolling back the transactions of its clients. The
    /// server's log is kept.
    ///
    /// # Errors
    /// The server did not stop.
    pub async fn shut_down(&mut self, immediate: bool, logs: &Path) -> anyhow::Result<()> {
        self.with(move |dev| dev.shut_down(immediate)).await?;
        self.keep_log(logs).await
    }

    /// Starts it again.
    ///
    /// # Errors
    /// The server did not start.
    pub async fn start_again(&mut self, logs: &Path) -> anyhow::Result<()> {
        self.keep_log(logs).await?;
        self.with(DevPostgres::start_again).await
    }

    /// Whether the server is down.
    pub fn has_ended(&mut self) -> bool {
        self.dev.as_mut().is_none_or(DevPostgres::has_ended)
    }

    /// Leaves no room on the server's disk.
    ///
    /// # Errors
    /// The server has no disk of its own, or the system refuses.
    pub async fn fill_disk(&self) -> anyhow::Result<()> {
        self.disk.as_ref().context("the server has no file system of its own")?.fill().await
    }

    /// Gives the room back.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn free_disk(&self) -> anyhow::Result<()> {
        self.disk.as_ref().context("the server has no file system of its own")?.free().await
    }

    /// Ends the server and removes everything that it left.
    ///
    /// # Errors
    /// The server did not stop, or something cannot be removed.
    pub async fn remove(mut self, logs: &Path) -> anyhow::Result<()> {
        self.shut_down(true, logs).await?;
        self.clear_away().await
    }

    async fn clear_away(&mut self) -> anyhow::Result<()> {
        drop(self.dev.take());
        failover::clear_away(self.disk.take(), &self.folder).await
    }

    async fn with<T: Send + 'static>(
        &mut self,
        act: impl FnOnce(&mut DevPostgres) -> Result<T, postbell::devdb::DevdbError> + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut dev = self.dev.take().context("the server is being changed already")?;
        let (dev, acted) = spawn_blocking(move || {
            let acted = act(&mut dev);
            (dev, acted)
        })
        .await?;
        self.dev = Some(dev);
        Ok(acted?)
    }

    /// Appends the server's log to the campaign's, as the server begins its log anew at each start.
    async fn keep_log(&self, logs: &Path) -> anyhow::Result<()> {
        let log = tokio::fs::read(self.folder.join("server.log")).await.unwrap_or_default();
        let mut kept =
            tokio::fs::OpenOptions::new().append(true).create(true).open(logs.join("postgres.log")).await?;
        tokio::io::AsyncWriteExt::write_all(&mut kept, &log).await?;
        Ok(())
    }
}

/// Connects as a plain SQL client.
///
/// # Errors
/// The server refuses.
pub async fn connect(url: &str) -> Result<(Sql, tokio::task::JoinHandle<()>), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let driver = tokio::spawn(async move {
        // The user of the client learns of an error by the next answer.
        let _ = connection.await;
    });
    Ok((client, driver))
}

/// Ends every connection of a kind, and returns how many there were. A kind is known by the last statement on the
/// connection, whose header names its caller.
///
/// # Errors
/// The server refuses.
pub async fn terminate(sql: &Sql, backend: Backend) -> anyhow::Result<i64> {
    let is = match backend {
        Backend::Tail => "query like '%src/store/tail.rs%'",
        Backend::Bell => "query ilike 'listen postbell%'",
        Backend::Settler => "query like '%src/store/settle.rs%'",
        Backend::Lease => "query like '%src/store/lease.rs%'",
        Backend::Pool => "query !~ 'src/store/(tail|settle|lease).rs' and query not ilike 'listen postbell%'",
        Backend::Producers => "true",
    };
    let who = if backend == Backend::Producers { "producer" } else { "postbell" };
    let end = format!(
        "select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity \
         where application_name = $1::text and {is} offset 0) ended"
    );
    Ok(sql.query_one(&end, &[&who]).await?.get(0))
}

/// How many inboxes a broker owns, which is how much a fault of this broker hits.
///
/// # Errors
/// The server refuses.
pub async fn owned(sql: &Sql, broker: &str) -> anyhow::Result<i64> {
    let count = "select count(*) from postbell.leases join postbell.brokers using (broker_id) \
                 where name = $1 and lease_until > now()";
    Ok(sql.query_one(count, &[&broker]).await?.get(0))
}

/// The name of an inbox.
pub fn inbox_name(inbox: u8) -> String {
    format!("inbox-{inbox}")
}

/// Registers the agents that own the inboxes.
///
/// # Errors
/// The server refuses.
pub async fn register(sql: &Sql, inboxes: u8, token: &str) -> anyhow::Result<()> {
    let insert = "insert into agent_registry (agent_id, agent_name, agent_type, environment, status, token_hash) \
                  select n, n, 'faults', 'faults', 'offline', sha256(convert_to($2::text, 'UTF8')) \
                  from unnest($1::text[]) n";
    let names: Vec<String> = (0..inboxes).map(inbox_name).collect();
    sql.execute(insert, &[&names, &token]).await?;
    Ok(())
}

/// Whether no delivery waits: each is settled or a dead letter.
///
/// # Errors
/// The server refuses.
pub async fn is_drained(sql: &Sql) -> anyhow::Result<bool> {
    let asked = "select not exists (select from postbell.deliveries where state <> 'dead')";
    Ok(sql.query_one(asked, &[]).await?.get(0))
}
