//! A file system in memory for the server alone, so that its room can be taken away.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tokio::process::Command;

/// Megabytes that the server needs at its start, and that an hour of 300 messages a second adds.
const DISK_MB: u64 = 1_024;
const DISK_MB_AN_HOUR: u64 = 3_072;
/// A longer campaign does not keep its data in memory, and skips the fault.
const DISK_HOURS_MAX: f64 = 2.0;
/// The room that is left on a full disk: less than a relation grows by at once.
const LEFT_BYTES: u64 = 64 * 1024;

/// A file system in memory.
pub(super) struct Disk {
    at: PathBuf,
    bytes: u64,
}

impl Disk {
    /// A disk for a server that is used for so many hours; `None` if that is too long, or the machine does not allow
    /// it.
    pub(super) async fn for_hours(at: &Path, hours: f64) -> Option<Self> {
        let bytes = (DISK_MB + (DISK_MB_AN_HOUR as f64 * hours) as u64) * 1024 * 1024;
        if hours > DISK_HOURS_MAX { None } else { Self::mount(at, bytes).await }
    }

    /// An empty disk of the same size.
    pub(super) async fn another(&self, at: &Path) -> Option<Self> {
        Self::mount(at, self.bytes).await
    }

    /// Leaves no room on the disk.
    pub(super) async fn fill(&self) -> anyhow::Result<()> {
        self.resize(self.used().await? + LEFT_BYTES).await
    }

    /// Gives the room back.
    pub(super) async fn free(&self) -> anyhow::Result<()> {
        self.resize(self.bytes).await
    }
    /// Mounts the disk; `None` if the machine does not allow it.
    async fn mount(at: &Path, bytes: u64) -> Option<Self> {
        let options = format!("size={bytes},mode=0755");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "postbell-faults"]).arg(at).output();
        let mounted = mount.await.is_ok_and(|done| done.status.success());
        mounted.then(|| Self { at: at.to_owned(), bytes })
    }

    async fn used(&self) -> anyhow::Result<u64> {
        let df = Command::new("df").args(["--output=used", "-B1"]).arg(&self.at).output().await?;
        let said = String::from_utf8_lossy(&df.stdout);
        said.lines().nth(1).and_then(|line| line.trim().parse().ok()).context("df does not say what is used")
    }

    async fn resize(&self, bytes: u64) -> anyhow::Result<()> {
        let options = format!("remount,size={bytes}");
        let done = Command::new("mount").args(["-o", &options]).arg(&self.at).output().await?;
        if !done.status.success() {
            bail!("the disk cannot be resized: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(())
    }

    pub(super) async fn unmount(&self) -> anyhow::Result<()> {
        let done = Command::new("umount").arg(&self.at).output().await?;
        if !done.status.success() {
            bail!("the disk cannot be unmounted: {}", String::from_utf8_lossy(&done.stderr).trim());
        }
        Ok(())
    }
}
