//! A child process: started with its log, signalled by its own id, and gone when the campaign is.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdout, Command};

/// A child process, killed when this is dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts the process; its standard error is appended to the log. The environment is `command`'s: the caller
    /// clears it.
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

    /// The process's standard output; `None` after the first call.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has ended already.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // The system gives an id to no other process before this one was waited for.
        let pid = self.child.id().and_then(|id| Pid::from_raw(id as i32)).context("it has ended already")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Errors
    /// The process cannot be killed.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// How the process ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Asks the process to stop, and waits for its end.
    ///
    /// # Errors
    /// The process did not stop within `wait`.
    pub async fn terminate(&mut self, wait: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match tokio::time::timeout(wait, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("it did not stop within {} s of a SIGTERM", wait.as_secs()),
        }
    }
}
