//! A failover: a standby that has every commit takes the primary's place.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use postbell::devdb::DevPostgres;
use tokio::time::{sleep, timeout};

use super::{Disk, Server, connect};

/// How long a standby may take to follow, and to be promoted.
const WAIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A standby without which the primary commits nothing.
pub struct Standby {
    dev: DevPostgres,
    folder: PathBuf,
    disk: Option<Disk>,
}

impl Server {
    /// Sets a standby up; when this returns, a COMMIT waits until the standby has it on its disk.
    ///
    /// # Errors
    /// There is no `pg_basebackup`, or the standby does not follow.
    pub async fn stand_by(&mut self) -> anyhow::Result<Standby> {
        self.generation += 1;
        let folder = self.folder.with_extension(self.generation.to_string());
        std::fs::create_dir_all(&folder)?;
        let disk = match &self.disk {
            Some(disk) => disk.another(&folder).await,
            None => None,
        };
        let of = folder.clone();
        let dev = match self.with(move |primary| primary.standby(&of)).await {
            Ok(dev) => dev,
            Err(e) => {
                clear_away(disk, &folder).await?;
                return Err(e);
            }
        };
        let standby = Standby { dev, folder, disk };
        let (sql, _driver) = connect(&self.url).await?;
        sql.batch_execute("alter system set synchronous_standby_names = '*'").await?;
        sql.batch_execute("select pg_reload_conf()").await?;
        let follows = async {
            let is_sync = "select exists (select from pg_stat_replication where sync_state = 'sync')";
            while !sql.query_one(is_sync, &[]).await?.get::<_, bool>(0) {
                sleep(LOOK_EVERY).await;
            }
            anyhow::Ok(())
        };
        timeout(WAIT, follows).await.context("the standby does not follow")??;
        Ok(standby)
    }

    /// Crashes the primary. From now on this is the standby, which takes no writes yet.
    ///
    /// # Errors
    /// The primary did not stop, or its data cannot be removed.
    pub async fn fail_over(&mut self, standby: Standby, logs: &Path) -> anyhow::Result<()> {
        self.shut_down(true, logs).await?;
        self.clear_away().await?;
        self.url = standby.dev.url();
        (self.dev, self.disk, self.folder) = (Some(standby.dev), standby.disk, standby.folder);
        Ok(())
    }

    /// Makes the standby the primary.
    ///
    /// # Errors
    /// The standby is not promoted in time.
    pub async fn promote(&self) -> anyhow::Result<()> {
        let (sql, _driver) = connect(&self.url).await?;
        let promoted = sql.query_one("select pg_promote(true, $1)", &[&(WAIT.as_secs() as i32)]).await?;
        anyhow::ensure!(promoted.get::<_, bool>(0), "the standby was not promoted in {} s", WAIT.as_secs());
        Ok(())
    }
}

pub(super) async fn clear_away(disk: Option<Disk>, folder: &Path) -> anyhow::Result<()> {
    if let Some(disk) = disk {
        disk.unmount().await?;
    }
    Ok(std::fs::remove_dir_all(folder)?)
}
