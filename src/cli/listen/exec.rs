//! `listen --exec`: a command for each message.

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStderr, ChildStdin};
use tokio::sync::watch;
use tokio::time::timeout;

use super::reason::{LastLine, harmless};
use super::tally::Of;
use crate::cli::family::{self, Family, NOT_EXECUTABLE, NOT_FOUND, Start};
use crate::cli::signals::Told;
use postbell_client::Delivery;

/// The longest variable of the environment, with its name, the `=` and the zero at its end: 32 pages, the limit of
/// Linux.
const VARIABLE_BYTES_MAX: usize = 128 * 1024;
/// How long a message is held before it is given back, if the system lacked something to start the command.
const WANT_WAIT: Duration = Duration::from_secs(1);
/// How long standard error is read on after the command's end: a process that escaped may hold the pipe open.
const LAST_WORDS_WAIT: Duration = Duration::from_secs(1);
const SHELL: (&str, &str) = if cfg!(windows) { ("cmd", "/C") } else { ("/bin/sh", "-c") };

/// A message and how its handling ended.
pub(super) struct Handled {
    pub(super) of: Of,
    pub(super) end: HandlingEnd,
}

/// How the handling of a message ended.
pub(super) enum HandlingEnd {
    Acked,
    Failed(String),
    Dead(String),
    /// Handled, but the broker could not be told: the message comes again.
    Untold(String),
    /// Given back without blame: the attempt does not count.
    GivenBack,
    /// The command cannot be started: the reason, and the exit status that says so.
    NotStarted(String, u8),
}

/// The exit status if this command line can run for no message; the log then says why. Known in advance only if the
/// first word is a plain name, and no program has it.
pub(super) fn why_not(command: &str) -> Option<u8> {
    let word = command.split_ascii_whitespace().next().unwrap_or("");
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/' | '_' | '+' | '-');
    if cfg!(windows) || word.starts_with('-') || word.is_empty() || !word.chars().all(is_plain) {
        return None;
    }
    let (shell, flag) = SHELL;
    let mut asking = Command::new(shell);
    asking.args([flag, r#"command -v "$1""#, shell, word]);
    let sentence = match asking.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => return None,
        Ok(_) if std::path::Path::new(word).is_file() => {
            (format!("{word} is not executable"), NOT_EXECUTABLE)
        }
        Ok(_) => (format!("{word} is not there"), NOT_FOUND),
        Err(e) => (format!("the shell {shell} cannot be started: {e}"), family::code_of_fault(&e)),
    };
    let (sentence, code) = sentence;
    tracing::error!("the command of --exec cannot run, so no message is taken: {sentence}");
    Some(code)
}

/// A command that handles messages.
pub(super) struct Exec {
    command: OsString,
    limit: Duration,
    grace: Duration,
    /// Whether the command succeeded once. If so, a status of 126 or 127 is the command's own and not the shell's.
    has_worked: AtomicBool,
    /// The command cannot be started. Set before the message that showed this gets its outcome, so that no further
    /// message is tried.
    is_useless: AtomicBool,
}

impl Exec {
    pub(super) fn new(command: &str, limit: Duration, grace: Duration) -> Self {
        let (has_worked, is_useless) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { command: command.into(), limit, grace, has_worked, is_useless }
    }

    /// Whether the command was found unable to start.
    pub(super) fn is_useless(&self) -> bool {
        self.is_useless.load(Ordering::Relaxed)
    }

    /// Runs the command for a message and tells the broker what came of it.
    pub(super) async fn handle(
        &self,
        delivery: Delivery,
        told: watch::Receiver<Option<(Told, u32)>>,
    ) -> Handled {
        let of = Of::from(&delivery);
        let end = self.run(&delivery, told.clone()).await;
        match &end {
            HandlingEnd::Acked => return super::confirm::acked(delivery, told).await,
            HandlingEnd::Untold(_) => {}
            HandlingEnd::Failed(reason) | HandlingEnd::NotStarted(reason, _) => {
                tracing::warn!(id = %delivery.id(), %reason, "the command failed");
                delivery.fail(reason, None).await;
            }
            HandlingEnd::Dead(reason) => {
                tracing::warn!(id = %delivery.id(), %reason, "the message cannot be handed to the command");
                delivery.dead(reason).await;
            }
            HandlingEnd::GivenBack => delivery.release(Duration::ZERO).await,
        }
        Handled { of, end }
    }

    async fn run(&self, delivery: &Delivery, told: watch::Receiver<Option<(Told, u32)>>) -> HandlingEnd {
        if told.borrow().is_some() {
            return HandlingEnd::GivenBack;
        }
        let variables = variables(delivery);
        if let Some(reason) = variables.iter().find_map(|(name, value)| misfit(name, value)) {
            return HandlingEnd::Dead(reason);
        }
        let mut family = match self.start(variables) {
            Ok(family) => family,
            Err(e) => return not_started(&e).await,
        };
        let (stdin, stderr) = (family.stdin(), family.stderr());
        let mut last_line = LastLine::default();
        let (ended, was_told) = {
            let ended = self.until_ended(&mut family, told);
            let talk =
                async { tokio::join!(feed(stdin, delivery.payload()), pass_on(stderr, &mut last_line)) };
            tokio::pin!(ended, talk);
            tokio::select! {
                ended = &mut ended => {
                    // A process that escaped from the command may hold its standard error open for ever.
                    let _ = timeout(LAST_WORDS_WAIT, talk).await;
                    ended
                }
                _ = &mut talk => ended.await,
            }
        };
        self.judge(ended, was_told, last_line)
    }

    fn start(&self, variables: Vec<(&'static str, String)>) -> io::Result<Family> {
        let (shell, flag) = SHELL;
        let hidden = &["POSTBELL_TOKEN", "POSTBELL_TOKEN_FILE"];
        let args = [flag.into(), self.command.clone()];
        Start { program: OsStr::new(shell), args: &args, variables, hidden, piped: true, grace: self.grace }
            .run()
    }

    /// How the command ended, and whether that was after a signal to this process.
    async fn until_ended(
        &self,
        family: &mut Family,
        mut told: watch::Receiver<Option<(Told, u32)>>,
    ) -> (Ended, bool) {
        let signal = tokio::select! {
            status = family.wait() => return (Ended::of(status), false),
            () = tokio::time::sleep(self.limit) => None,
            told = heard(&mut told, 1) => Some(told),
        };
        let Some(signal) = signal else {
            let is_gone = family.end_within(self.grace).await.is_some();
            return (if is_gone { Ended::TookTooLong } else { Ended::Not }, false);
        };
        family.pass(signal);
        tokio::select! {
            status = family.wait() => return (Ended::of(status), true),
            () = tokio::time::sleep(self.grace) => {}
            _ = heard(&mut told, 2) => {}
        }
        (family.end().await.map_or(Ended::Not, Ended::With), true)
    }

    fn judge(&self, ended: Ended, was_told: bool, last_line: LastLine) -> HandlingEnd {
        match ended {
            Ended::With(status) if status.success() => {
                self.has_worked.store(true, Ordering::Relaxed);
                HandlingEnd::Acked
            }
            Ended::Not => HandlingEnd::Failed(
                "a process that the command started cannot be ended, and goes on".to_owned(),
            ),
            // A command that was told to end did not fail by itself, as far as anybody can know.
            _ if was_told => HandlingEnd::GivenBack,
            Ended::With(status) => {
                let reason = last_line.text().unwrap_or_else(|| in_words(status));
                let code = family::code_of(status);
                if [NOT_FOUND, NOT_EXECUTABLE].contains(&code) && !self.has_worked.load(Ordering::Relaxed) {
                    self.is_useless.store(true, Ordering::Relaxed);
                    return HandlingEnd::NotStarted(reason, code);
                }
                HandlingEnd::Failed(reason)
            }
            Ended::TookTooLong => HandlingEnd::Failed(format!(
                "the command took longer than {}",
                humantime::format_duration(self.limit)
            )),
            Ended::Lost(reason) => HandlingEnd::Failed(format!("the command was lost: {reason}")),
        }
    }
}

/// The signal, once at least `often` signals have come.
pub(super) async fn heard(told: &mut watch::Receiver<Option<(Told, u32)>>, often: u32) -> Told {
    let is_so = |told: &Option<(Told, u32)>| told.is_some_and(|(_, times)| times >= often);
    let signal = match told.wait_for(is_so).await {
        Ok(told) => told.map(|(signal, _)| signal),
        Err(_) => None,
    };
    match signal {
        Some(signal) => signal,
        // The sender is gone, so no signal can come any more.
        None => std::future::pending().await,
    }
}

enum Ended {
    With(ExitStatus),
    TookTooLong,
    Lost(String),
    /// A process of the command lives on, whatever is done.
    Not,
}

impl Ended {
    fn of(status: io::Result<ExitStatus>) -> Self {
        match status {
            Ok(status) => Self::With(status),
            Err(e) => Self::Lost(e.to_string()),
        }
    }
}

fn in_words(status: ExitStatus) -> String {
    match family::code_of(status) {
        code @ 129..=192 => format!("the command ended with status {code}: signal {}", code - 128),
        code => format!("the command ended with status {code}"),
    }
}

/// The end of a message whose command could not be started: the message may be to blame, or the command, or the
/// system.
async fn not_started(fault: &io::Error) -> HandlingEnd {
    let reason = format!("the command cannot be started: {fault}");
    match fault.kind() {
        io::ErrorKind::ArgumentListTooLong | io::ErrorKind::InvalidInput => HandlingEnd::Failed(reason),
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            HandlingEnd::NotStarted(reason, family::code_of_fault(fault))
        }
        _ => {
            tracing::warn!(%reason, "the message is given back");
            tokio::time::sleep(WANT_WAIT).await;
            HandlingEnd::GivenBack
        }
    }
}

fn variables(delivery: &Delivery) -> Vec<(&'static str, String)> {
    vec![
        ("POSTBELL_ID", delivery.id().to_string()),
        ("POSTBELL_FROM", delivery.from().to_owned()),
        ("POSTBELL_TYPE", delivery.message_type().to_owned()),
        ("POSTBELL_PRIORITY", delivery.priority().to_string()),
        ("POSTBELL_ATTEMPT", delivery.attempt().to_string()),
        ("POSTBELL_CREATED_AT", delivery.created_at().to_owned()),
        ("POSTBELL_CORRELATION_ID", delivery.correlation_id().unwrap_or("").to_owned()),
        ("POSTBELL_HEADERS", delivery.headers().map_or("", RawValue::get).to_owned()),
    ]
}

/// Why no environment can hold this variable; `None` if one can.
fn misfit(name: &str, value: &str) -> Option<String> {
    if value.contains('\0') {
        return Some(format!("{name} would hold a zero character, which no variable can"));
    }
    let bytes = name.len() + value.len() + 2;
    (bytes > VARIABLE_BYTES_MAX)
        .then(|| format!("{name} would be {bytes} bytes, and a variable holds at most {VARIABLE_BYTES_MAX}"))
}

/// Writes the payload to the command. A failed write is no fault: a command that reads nothing, or only the
/// beginning, may still succeed.
async fn feed(stdin: Option<ChildStdin>, payload: &str) {
    if let Some(mut stdin) = stdin {
        let _ = stdin.write_all(payload.as_bytes()).await;
    }
}

/// Passes on all that a command writes to standard error, whatever the bytes, and keeps the last line.
async fn pass_on(stderr: Option<ChildStderr>, last_line: &mut LastLine) {
    let Some(mut stderr) = stderr else { return };
    let mut piece = vec![0; 8 * 1024];
    while let Ok(n @ 1..) = stderr.read(&mut piece).await {
        last_line.feed(&piece[..n]);
        // If nobody reads our standard error, the command goes on all the same.
        let _ = io::Write::write_all(&mut io::stderr(), &piece[..n]);
    }
}

/// A name from outside, made harmless and cut, for a sentence.
pub(super) fn name(text: &str) -> String {
    super::reason::cut(&harmless(text), 100)
}
