//! A child process: started with its log, signalled by its own id, and gone when the campaign is.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdout, Command};

/// See the module. It is killed when this is dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it, with an environment of only what `command` sets; its standard error is appended to the log.
    ///
    /// # Errors
    /// The program cannot be run, or the log cannot be written.
    pub fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let log = std::fs::File::options().append(true).create(true).open(log).context("a log")?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        // In a group of its own: Ctrl-C reaches the campaign, which then ends its children.
        command.process_group(0);
        Ok(Self { child: command.spawn().context("a child process cannot be started")? })
    }

    /// What it prints, once.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // An id that was not waited for is not given to another process.
        let pid = self.child.id().and_then(|id| Pid::from_raw(id as i32)).context("it has ended already")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks it to stop, and waits for it.
    ///
    /// # Errors
    /// It did not stop within `wait`.
    pub async fn terminate(&mut self, wait: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(wait, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("it did not stop within {} s of a SIGTERM", wait.as_secs()),
        }
    }
}
