//! A command in a group of its own may read the terminal only while the terminal is lent to that group; Ctrl-C and Ctrl-Z
//! go there too.

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
    /// Standard input, if that is one.
    pub(super) fn of_this_process() -> Option<Self> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return None;
        }
        stdin.as_fd().try_clone_to_owned().ok().map(Self)
    }

    /// Lends it to the command's group, if it is ours to lend: a job in the background has none.
    pub(super) fn lend(&self, group: Pid) {
        if self.is_with(getpgrp()) {
            let _ = tcsetpgrp(&self.0, group);
        }
    }

    /// Whether it is this group's now.
    pub(super) fn is_with(&self, group: Pid) -> bool {
        tcgetpgrp(&self.0).is_ok_and(|holder| holder == group)
    }

    /// Gives it back to the group that lent it. Only who holds it may, or is stopped for it.
    pub(super) fn give_back(&self, group: Pid) {
        if self.is_with(getpgrp()) {
            let _ = tcsetpgrp(&self.0, group);
        }
    }

    /// Where Ctrl-Z stops the command, this job stops as well, and the shell sees it; woken by `fg`, so is the command. Ends
    /// only by a fault.
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
