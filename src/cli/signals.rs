//! The signals that ask a process to end.

use std::io;

/// A signal that this process got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    number: i32,
    name: &'static str,
}

impl Told {
    pub(super) const TERM: Self = Self { number: 15, name: "SIGTERM" };
    #[cfg(unix)]
    const ALL: [Self; 4] = [
        Self::TERM,
        Self { number: 2, name: "SIGINT" },
        Self { number: 1, name: "SIGHUP" },
        Self { number: 3, name: "SIGQUIT" },
    ];

    pub(super) fn name(self) -> &'static str {
        self.name
    }

    /// The exit status of a process that this signal ended, as in a shell.
    pub(super) fn code(self) -> u8 {
        u8::try_from(128 + self.number).unwrap_or(1)
    }

    #[cfg(unix)]
    pub(super) fn signal(self) -> rustix::process::Signal {
        use rustix::process::Signal;
        [Signal::HUP, Signal::INT, Signal::QUIT]
            .into_iter()
            .find(|signal| signal.as_raw() == self.number)
            .unwrap_or(Signal::TERM)
    }
}

/// Once this is made, the signals do not end this process any more: [`next`](Self::next) returns them.
pub(super) struct Signals {
    #[cfg(unix)]
    streams: Vec<(Told, tokio::signal::unix::Signal)>,
}

impl Signals {
    #[cfg(unix)]
    pub(super) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let heard = Told::ALL.into_iter().filter(|told| !(told.number == 1 && is_hangup_ignored()));
        let streams = heard.map(|told| Ok((told, signal(SignalKind::from_raw(told.number))?)));
        Ok(Self { streams: streams.collect::<io::Result<_>>()? })
    }

    #[cfg(not(unix))]
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    /// The next signal. Cancel-safe: a signal that comes meanwhile is kept.
    #[cfg(unix)]
    pub(super) async fn next(&mut self) -> Told {
        std::future::poll_fn(|context| {
            for (told, stream) in &mut self.streams {
                if stream.poll_recv(context).is_ready() {
                    return std::task::Poll::Ready(*told);
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) -> Told {
        // An error means that no signal will come.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Told { number: 2, name: "Ctrl-C" }
    }

    /// A signal that came already, without waiting.
    pub(super) async fn came(&mut self) -> Option<Told> {
        tokio::select! {
            biased;
            told = self.next() => Some(told),
            () = std::future::ready(()) => None,
        }
    }
}

/// Whether this process was started to ignore SIGHUP, as `nohup` does; a handler would undo that.
#[cfg(unix)]
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
