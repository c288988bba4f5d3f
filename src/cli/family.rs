//! A command and every process that it starts: signalled, ended and waited for as one.
//!
//! A separate process, the keeper (`family/keeper.rs`), starts the command and ends once no process of the command is
//! left. The keeper learns of this process's end, whatever the cause, and then ends the command. On Linux a process
//! that leaves the command's group and session is still followed; elsewhere a process that leaves both its group and
//! its parent escapes.
//!
//! Two kinds of process escape everywhere: one that somebody else started for the command (systemd-run, docker,
//! cron), and one that had left the command's group before the keeper itself was killed by SIGKILL.

#[cfg(unix)]
pub(super) mod keeper;
#[cfg(unix)]
mod members;
#[cfg(unix)]
mod terminal;

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio::time::timeout;

use super::signals::Told;

/// The first word of a keeper's command line.
pub(super) const WORD: &str = "__keep";
/// A killed command is gone within this time, unless the system cannot end it.
const GONE_WAIT: Duration = Duration::from_secs(10);
#[cfg(unix)]
/// A command that signal n ended has the exit status 128 + n, as in a shell.
const BY_SIGNAL: i32 = 128;

/// The words before Postbell's own on this process's command line: none, unless Postbell is a part of another
/// program.
static WORDS_BEFORE: OnceLock<Vec<OsString>> = OnceLock::new();

/// Remembers the words that made this process `postbell`: the same words make a copy of it a keeper.
pub(super) fn remember(words: &[OsString]) {
    let all: Vec<OsString> = std::env::args_os().skip(1).collect();
    let before = all.strip_suffix(words.get(1..).unwrap_or_default()).unwrap_or_default();
    let _ = WORDS_BEFORE.set(before.to_vec());
}

/// How a command is started.
pub(super) struct Start<'a> {
    pub(super) program: &'a OsStr,
    pub(super) args: &'a [OsString],
    pub(super) variables: Vec<(&'static str, String)>,
    /// Variables that the command must not see.
    pub(super) hidden: &'static [&'static str],
    /// If so, we write the command's standard input and read its standard error; if not, the command has this
    /// process's own.
    pub(super) piped: bool,
    /// How long processes that the command leaves behind may take to end, once they are asked to.
    pub(super) grace: Duration,
}

/// A running command and the processes that it started.
pub(super) struct Family {
    keeper: Child,
    /// All processes are gone. No signal may be sent any more: the keeper's number may be another process's by now.
    ended: bool,
    #[cfg(unix)]
    group: Option<rustix::process::Pid>,
    #[cfg(unix)]
    terminal: Option<terminal::Terminal>,
}

impl Start<'_> {
    /// Starts the command with this process's environment, `variables` added and `hidden` taken away.
    ///
    /// # Errors
    /// The system cannot start a process. On Unix, a program that is missing or cannot be run shows in the exit
    /// status, [`NOT_FOUND`] or [`NOT_EXECUTABLE`], with a sentence on standard error.
    pub(super) fn run(self) -> io::Result<Family> {
        let mut command = self.command();
        command.envs(self.variables);
        for name in self.hidden {
            command.env_remove(name);
        }
        if self.piped {
            command.stdin(Stdio::piped()).stderr(Stdio::piped());
        }
        #[cfg(unix)]
        {
            let terminal = if self.piped { None } else { terminal::Terminal::of_this_process() };
            let keeper = command.spawn()?;
            let group = keeper.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
            if let (Some(terminal), Some(group)) = (&terminal, group) {
                terminal.lend(group);
            }
            Ok(Family { keeper, ended: false, group, terminal })
        }
        #[cfg(not(unix))]
        Ok(Family { keeper: command.spawn()?, ended: false })
    }

    #[cfg(unix)]
    fn command(&self) -> Command {
        // The file that runs, even if another file has its name by now.
        let itself = OsStr::new("/proc/self/exe");
        let named = || std::env::current_exe().map(OsString::from).unwrap_or_else(|_| itself.to_owned());
        let program = if cfg!(target_os = "linux") { itself.to_owned() } else { named() };
        let mut command = Command::new(program);
        let takes_terminal = !self.piped && terminal::Terminal::of_this_process().is_some();
        command
            .arg0("postbell")
            .args(WORDS_BEFORE.get().into_iter().flatten())
            .arg(WORD)
            .arg(std::process::id().to_string())
            .arg(if takes_terminal { "terminal" } else { "-" })
            .arg(self.grace.as_millis().to_string())
            .arg(self.program)
            .args(self.args)
            .process_group(0);
        command
    }

    #[cfg(not(unix))]
    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command.args(self.args).kill_on_drop(true);
        command
    }
}

impl Family {
    pub(super) fn stdin(&mut self) -> Option<ChildStdin> {
        self.keeper.stdin.take()
    }

    pub(super) fn stderr(&mut self) -> Option<ChildStderr> {
        self.keeper.stderr.take()
    }

    /// Waits until every process is gone, and returns the exit status of the command itself. Cancel-safe.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        #[cfg(unix)]
        let status = match (&self.terminal, self.group) {
            (Some(terminal), Some(group)) => {
                tokio::select! {
                    status = self.keeper.wait() => status?,
                    fault = terminal.follow(group) => return Err(fault),
                }
            }
            _ => self.keeper.wait().await?,
        };
        #[cfg(not(unix))]
        let status = self.keeper.wait().await?;
        self.ended = true;
        #[cfg(unix)]
        if let Some(group) = self.group
            && std::os::unix::process::ExitStatusExt::signal(&status).is_some()
        {
            // The keeper itself was killed. Processes that left the group cannot be followed any more, but the group
            // can be ended.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        Ok(status)
    }

    /// Asks every process to end by TERM, and kills those that are left after `grace`. `None` if some process still
    /// lives.
    pub(super) async fn end_within(&mut self, grace: Duration) -> Option<ExitStatus> {
        self.pass(Told::TERM);
        match timeout(grace, self.wait()).await {
            Ok(ended) => ended.ok(),
            Err(_) => self.end().await,
        }
    }

    /// Kills every process at once. `None` if the system could not end some process.
    pub(super) async fn end(&mut self) -> Option<ExitStatus> {
        self.kill();
        timeout(GONE_WAIT, self.wait()).await.ok()?.ok()
    }
}

#[cfg(unix)]
impl Family {
    /// Passes a signal on to the group; the keeper passes it on to processes outside the group. A stopped process is
    /// woken, or it would not act on the signal.
    pub(super) fn pass(&self, signal: Told) {
        use rustix::process::{Signal, kill_process_group};
        let Some(group) = self.group.filter(|_| !self.ended) else { return };
        // The group may have ended this moment.
        let _ = kill_process_group(group, signal.signal());
        let _ = kill_process_group(group, Signal::CONT);
    }

    fn kill(&self) {
        use rustix::process::{Signal, kill_process, kill_process_group};
        let Some(group) = self.group.filter(|_| !self.ended) else { return };
        let _ = kill_process(group, keeper::KILL_ALL);
        let _ = kill_process_group(group, Signal::CONT);
    }
}

#[cfg(not(unix))]
impl Family {
    /// This system has no signals to pass on, so the command is ended.
    pub(super) fn pass(&mut self, _: Told) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = self.keeper.start_kill();
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        if !self.ended {
            self.kill();
        }
    }
}

/// The exit status as a shell would give it.
pub(super) fn code_of(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    let by_signal = std::os::unix::process::ExitStatusExt::signal(&status).map(|n| BY_SIGNAL + n);
    #[cfg(not(unix))]
    let by_signal = None::<i32>;
    status.code().or(by_signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// The exit status of a command that is not there, as in a shell.
pub(super) const NOT_FOUND: u8 = 127;
/// The exit status of a command that is there and cannot be run, as in a shell.
pub(super) const NOT_EXECUTABLE: u8 = 126;

/// The exit status for a command that could not be started.
pub(super) fn code_of_fault(fault: &io::Error) -> u8 {
    if fault.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
}
