//! The keeper: the process between `postbell` and a command (`../family.rs`). The keeper starts the command, becomes
//! the parent of the command's orphans, and ends when all processes are gone, with the command's exit status.
//!
//! The keeper knows nothing of brokers. Beside a terminal that is lent, it keeps none of the command's descriptors open
//! but standard error, for its own faults.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, getpgid, getpid, getppid, kill_process, wait};
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};
use tokio::time::{Instant, interval, sleep_until};

use super::members;
use super::terminal::Terminal;
use super::{BY_SIGNAL, code_of_fault};
use crate::cli::output;
use crate::cli::signals::Signals;

/// Asks the keeper to kill everything. The command is in the keeper's group, so this must be a signal that nobody
/// sends to a group by habit.
pub(super) const KILL_ALL: Signal = Signal::VTALARM;
/// The system sends this when the thread that started the keeper is gone, perhaps with its process.
const PARENT_GONE: Signal = Signal::PROF;
/// How often the keeper looks for its parent: some systems do not send [`PARENT_GONE`], and the thread may end before
/// its process.
const PARENT_EVERY: Duration = Duration::from_secs(1);
/// How long processes that outlive the command may go on before they are asked to end: a `tee` may still be writing.
const LINGER: Duration = Duration::from_secs(1);
/// How often the kill is repeated: a killed process may have started another one meanwhile.
const KILL_EVERY: Duration = Duration::from_millis(20);
/// How long the keeper waits for the terminal to be lent to it.
const TERMINAL_WAIT: Duration = Duration::from_secs(1);

/// The words of a keeper's command line.
struct Task {
    parent: Pid,
    takes_terminal: bool,
    grace: Duration,
    command: Vec<OsString>,
}

impl Task {
    fn parse(words: &[OsString]) -> Option<Self> {
        let [parent, terminal, grace, command @ ..] = words else { return None };
        Some(Self {
            parent: Pid::from_raw(parent.to_str()?.parse().ok()?)?,
            takes_terminal: terminal == "terminal",
            grace: Duration::from_millis(grace.to_str()?.parse().ok()?),
            command: (!command.is_empty()).then(|| command.to_vec())?,
        })
    }
}

/// Runs a keeper with these words, the ones after [`super::WORD`].
pub(in crate::cli) fn main(words: &[OsString]) -> ExitCode {
    let Some(task) = Task::parse(words) else {
        output::fault(&format!("{} is for postbell itself", super::WORD));
        return ExitCode::from(crate::broker::config::EXIT_USAGE);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(keep(task))) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            output::fault(&format!("the command could not be watched, and was not started: {}", reason(&e)));
            ExitCode::from(super::NOT_EXECUTABLE)
        }
    }
}

/// The signals that a keeper waits for.
struct Events {
    asked: Signals,
    changed: Stream,
    kill: Stream,
    gone: Stream,
}

async fn keep(task: Task) -> io::Result<u8> {
    // All of this before the command starts, so that no signal and no process of the command is missed.
    let stream = |signal_: Signal| signal(SignalKind::from_raw(signal_.as_raw()));
    let events = Events {
        asked: Signals::new()?,
        changed: signal(SignalKind::child())?,
        kill: stream(KILL_ALL)?,
        gone: stream(PARENT_GONE)?,
    };
    take_in_orphans()?;
    if getppid() != Some(task.parent) {
        return Ok(1);
    }
    let terminal = if task.takes_terminal { Terminal::of_this_process() } else { None };
    if let Some(terminal) = &terminal {
        let until = Instant::now() + TERMINAL_WAIT;
        while !terminal.is_with(getpid()) && Instant::now() < until {
            sleep_until(Instant::now() + Duration::from_millis(2)).await;
        }
    }
    let code = match start(&task) {
        Ok(leader) => Keeper { task: &task, leader, code: None, leaving: None }.watch(events).await,
        Err(e) => {
            let program = task.command.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
            output::fault(&format!("{} cannot be started: {}", program.escape_debug(), reason(&e)));
            code_of_fault(&e)
        }
    };
    if let Some(terminal) = &terminal
        && let Ok(lender) = getpgid(Some(task.parent))
    {
        terminal.give_back(lender);
    }
    Ok(code)
}

/// The error in words, without the system's number.
fn reason(fault: &io::Error) -> String {
    let text = fault.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_owned()
}

#[cfg(target_os = "linux")]
fn take_in_orphans() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(getpid()))?;
    rustix::process::set_parent_process_death_signal(Some(PARENT_GONE))?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn take_in_orphans() -> io::Result<()> {
    Ok(())
}

/// Starts the command, and then closes the keeper's own standard input and output: a writer must see the pipe break
/// as soon as the command stops reading.
fn start(task: &Task) -> io::Result<Pid> {
    let (program, args) = task.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let nothing = std::fs::File::options().read(true).write(true).open("/dev/null")?;
    let child = Command::new(program).args(args).spawn()?;
    rustix::stdio::dup2_stdin(nothing.as_fd())?;
    rustix::stdio::dup2_stdout(nothing.as_fd())?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// How far the end has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// The command has ended. At this moment the processes that are left are asked to end.
    Lingers(Instant),
    /// The processes that are left were asked to end. At this moment they are killed.
    Asked(Instant),
    /// The processes that are left were killed. At this moment they are killed again, with any that they started.
    Killed(Instant),
}

impl Leaving {
    fn now() -> Self {
        Self::Killed(Instant::now())
    }

    fn due(self) -> Instant {
        match self {
            Self::Lingers(at) | Self::Asked(at) | Self::Killed(at) => at,
        }
    }
}

struct Keeper<'a> {
    task: &'a Task,
    leader: Pid,
    code: Option<u8>,
    leaving: Option<Leaving>,
}

impl Keeper<'_> {
    async fn watch(mut self, mut events: Events) -> u8 {
        let mut look = interval(PARENT_EVERY);
        let mut was_asked = false;
        while !self.is_all_gone() {
            if self.code.is_some() && self.leaving.is_none() {
                let linger = if was_asked { Duration::ZERO } else { LINGER };
                self.leaving = Some(Leaving::Lingers(Instant::now() + linger));
            }
            let due = self.leaving.map(Leaving::due);
            tokio::select! {
                _ = events.changed.recv() => {}
                told = events.asked.next() => {
                    was_asked = true;
                    // The members of our group got the signal when we did.
                    self.tell(told.signal(), |member| member.group != own_group());
                }
                _ = events.kill.recv() => self.leaving = Some(Leaving::now()),
                _ = events.gone.recv() => self.look_for_parent(),
                _ = look.tick() => self.look_for_parent(),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => self.go_on_leaving(),
            }
        }
        self.code.unwrap_or(1)
    }

    fn go_on_leaving(&mut self) {
        match self.leaving {
            Some(Leaving::Lingers(_)) => {
                self.tell(Signal::TERM, |_| true);
                self.leaving = Some(Leaving::Asked(Instant::now() + self.task.grace));
            }
            Some(Leaving::Asked(_) | Leaving::Killed(_)) => {
                self.tell(Signal::KILL, |_| true);
                self.leaving = Some(Leaving::Killed(Instant::now() + KILL_EVERY));
            }
            None => {}
        }
    }

    /// Kills everything if the parent is gone: nobody could stop the command any more, and a lock that it works under
    /// may soon be another's.
    fn look_for_parent(&mut self) {
        if getppid() != Some(self.task.parent) {
            self.leaving = Some(Leaving::now());
        }
    }

    fn tell(&self, signal: Signal, whom: impl Fn(&members::Process) -> bool) {
        for member in members::of(getpid()).into_iter().filter(whom) {
            if let Some(id) = Pid::from_raw(member.id) {
                // The process may have ended this moment, or be another user's.
                let _ = kill_process(id, signal);
                let _ = kill_process(id, Signal::CONT);
            }
        }
    }

    /// Collects the children that have ended; `true` if none is left. On Linux an orphan of the command becomes this
    /// process's child.
    fn is_all_gone(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((id, status))) => {
                    if id == self.leader {
                        let by_signal = status.terminating_signal().map(|n| BY_SIGNAL + n);
                        let code = status.exit_status().or(by_signal).unwrap_or(1);
                        self.code = Some(u8::try_from(code).unwrap_or(1));
                    }
                }
                Ok(None) => return false,
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => return cfg!(target_os = "linux") || members::of(getpid()).is_empty(),
            }
        }
    }
}

fn own_group() -> i32 {
    rustix::process::getpgrp().as_raw_nonzero().get()
}
