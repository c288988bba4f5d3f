//! The terminal is lent to the command's group: only the group that holds the terminal may read it, and Ctrl-C and
//! Ctrl-Z go to that group.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, getpgrp, kill_current_process_group, kill_process_group, waitid,
};
use rustix::termios::{isatty, tcgetpgrp, tcsetpgrp};
use tokio::signal::unix::{SignalKind, signal};

/// The terminal that this process reads.
pub(super) struct Terminal(OwnedFd);

impl Terminal {
    /// Standard input, if that is a terminal.
    pub(super) fn of_this_process() -> Option<Self> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return None;
        }
        stdin.as_fd().try_clone_to_owned().ok().map(Self)
    }

    /// Lends the terminal to the command's group. Does nothing if this process does not hold it, as a job in the
    /// background.
    pub(super) fn lend(&self, group: Pid) {
        if self.is_with(getpgrp()) {
            let _ = tcsetpgrp(&self.0, group);
        }
    }

    /// Whether this group holds the terminal now.
    pub(super) fn is_with(&self, group: Pid) -> bool {
        tcgetpgrp(&self.0).is_ok_and(|holder| holder == group)
    }

    /// Gives the terminal back to the group that lent it. Only the holder may: the system stops any other process
    /// that tries.
    pub(super) fn give_back(&self, group: Pid) {
        if self.is_with(getpgrp()) {
            let _ = tcsetpgrp(&self.0, group);
        }
    }

    /// When Ctrl-Z stops the command, stops this process as well, so that the shell sees a stopped job. When `fg`
    /// wakes this process, wakes the command. Returns only on a fault.
    pub(super) async fn follow(&self, group: Pid) -> io::Error {
        let mut changes = match signal(SignalKind::child()) {
            Ok(changes) => changes,
            Err(e) => return e,
        };
        loop {
            let seen = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
            if let Ok(Some(status)) = waitid(WaitId::Pid(group), seen)
                && status.stopped()
            {
                // This returns once somebody has woken us.
                let _ = kill_current_process_group(Signal::STOP);
                self.lend(group);
                let _ = kill_process_group(group, Signal::CONT);
            }
            if changes.recv().await.is_none() {
                return io::Error::other("the system tells of no more changes");
            }
        }
    }
}
