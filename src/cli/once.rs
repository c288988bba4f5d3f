//! `postbell once`: a command that one of several jobs runs, wherever they are started.

mod report;

use std::ffi::OsString;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;
use tokio::time::Instant;

use anyhow::Context;
use tokio::time::timeout;

use super::family::{self, Family, Start};
use super::send::ConnectArgs;
use super::signals::{Signals, Told};
use super::{Exit, output};
use postbell_client::Client;
use postbell_client::lock::{Acquired, Lock};
use report::Report;

/// The exit status if another process has the lock: try again later (EX_TEMPFAIL of sysexits.h).
const EXIT_HELD: u8 = 75;

/// How long a process that is stopped while it asks for the lock waits for the answer, to give the lock back.
const ASKED_WAIT: Duration = Duration::from_secs(5);

/// Runs a command unless somebody else does, or did, under the same key.
///
/// The key names the task, such as daily-2026-11-24. The lock is renewed while the command runs; if this process dies,
/// the command is ended, and another may run it after --ttl. Exit status 0 of the command says that the task is done: from
/// then on `once` with this key runs nothing and exits with 0. Any other status gives the lock back. The command finds the
/// lock's growing number in POSTBELL_FENCE.
///
/// SIGTERM, Ctrl-C, SIGHUP and SIGQUIT are passed on to the command and all that it started. A process that goes on
/// after --grace is killed, at a second signal at once. The lock is held until every process is gone. A process that
/// the command leaves behind when it ends is asked to end as well. If the broker is away for so long that the lock
/// could end, the command is ended before that.
#[derive(clap::Args)]
#[command(
    after_help = "Exit status: the command's, 128+n if a signal ended it; 0 also where the task is done already; 75 somebody \
else is at it; 126 and 127 the command cannot be started; 1 it was stopped, or the lock was lost; 64 wrong usage.

Example:
  postbell once --agent nightly \"daily-$(date +%F)\" -- ./daily.sh"
)]
pub(super) struct OnceArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// For how long the lock is held if this process dies, 1s to 1h
    #[arg(long, env = "POSTBELL_TTL", default_value = "1min", value_parser = humantime::parse_duration)]
    ttl: Duration,
    // GitHub Actions kills a cancelled job 7.5 s after the interrupt at the soonest; the default is below that.
    /// How long the command may go on after a signal
    #[arg(long, env = "POSTBELL_GRACE", default_value = "5s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Names the task
    key: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<OsString>,
}

pub(super) async fn run(args: OnceArgs) -> Exit {
    // Signals are caught before the lock is asked for: none may end this process between taking the lock and giving
    // it back.
    let mut signals = Signals::new()?;
    let connecting = args.connect.builder()?.window(0).connect();
    let (client, _deliveries) = tokio::select! {
        connected = connecting => connected?,
        told = signals.next() => return Ok(ExitCode::from(told.code())),
    };
    let outcome = ask_and_run(&client, &args, &mut signals).await;
    client.close().await;
    match &outcome {
        Ok(report) => report.tell(&args),
        Err(e) => Report::new(1, format!("{e:#}")).tell(&args),
    }
    Ok(ExitCode::from(outcome?.code))
}

async fn ask_and_run(client: &Client, args: &OnceArgs, signals: &mut Signals) -> anyhow::Result<Report> {
    match ask(client, args, signals).await? {
        Asked::Stopped(told) => Ok(stopped_before(told)),
        Asked::Answered(Acquired::Held(lock)) => run_under(lock, args, signals).await,
        Asked::Answered(Acquired::Taken { holder, left, is_done }) => {
            let holder = holder.unwrap_or_else(|| "another agent".to_owned());
            if is_done {
                tracing::info!(key = args.key, by = holder, "the task is done already");
                Ok(Report::new(0, format!("done already, by {holder}")))
            } else {
                let left = left.map(|left| humantime::format_duration(left).to_string());
                tracing::info!(key = args.key, by = holder, left, "somebody else is at it");
                let how =
                    format!("{holder} is at it and has the lock, for {} more", left.unwrap_or_default());
                Ok(Report::new(EXIT_HELD, how))
            }
        }
    }
}

fn stopped_before(told: Told) -> Report {
    Report::new(told.code(), format!("stopped by {} before it began", told.name()))
}

enum Asked {
    Answered(Acquired),
    Stopped(Told),
}

/// Asks for the lock. If a signal comes meanwhile, a lock that is still granted is given back.
async fn ask(client: &Client, args: &OnceArgs, signals: &mut Signals) -> anyhow::Result<Asked> {
    let asking = client.lock(&args.key, args.ttl);
    tokio::pin!(asking);
    let told = tokio::select! {
        acquired = &mut asking => return Ok(Asked::Answered(acquired?)),
        told = signals.next() => told,
    };
    if let Ok(Ok(Acquired::Held(lock))) = timeout(ASKED_WAIT, asking).await {
        give_back(lock, &args.key).await;
    }
    Ok(Asked::Stopped(told))
}

/// How the command came to its end.
enum Ended {
    ByItself(ExitStatus),
    /// After a signal to this process.
    Stopped(Told, ExitStatus),
    LockLost,
    /// A process of the command lives on, whatever is done.
    Not,
}

async fn run_under(lock: Lock, args: &OnceArgs, signals: &mut Signals) -> anyhow::Result<Report> {
    if let Some(told) = signals.came().await {
        give_back(lock, &args.key).await;
        return Ok(stopped_before(told));
    }
    let began = Instant::now();
    let mut family = match start(&lock, args) {
        Ok(family) => family,
        Err(e) => {
            give_back(lock, &args.key).await;
            let program = args.command.first().map(|p| p.to_string_lossy().into_owned()).unwrap_or_default();
            output::fault(&format!("{} cannot be started: {e}", program.escape_debug()));
            return Ok(Report::new(family::code_of_fault(&e), format!("it cannot be started: {e}")));
        }
    };
    let ended = until_ended(&mut family, &lock, args, signals).await.context("the command was lost")?;
    let took = began.elapsed();
    Ok(end(lock, args, ended).await?.after(took))
}

/// Ends the lock as the command's end demands: done, given back, or left to its time.
async fn end(lock: Lock, args: &OnceArgs, ended: Ended) -> anyhow::Result<Report> {
    let failed = |sentence: String| {
        output::fault(&sentence);
        Report::new(1, sentence)
    };
    Ok(match ended {
        Ended::ByItself(status) if status.success() => {
            lock.done().await?;
            Report::new(0, "done: it runs under this key no more")
        }
        Ended::ByItself(status) => {
            give_back(lock, &args.key).await;
            Report::new(family::code_of(status), "failed: the lock is given back")
        }
        Ended::Stopped(told, status) => {
            give_back(lock, &args.key).await;
            tracing::warn!(signal = told.name(), "stopped: the command and all that it started have ended");
            // A stopped command may exit with 0, but the task is not done.
            let how = format!("stopped by {}: the lock is given back", told.name());
            Report::new(family::code_of(status).max(1), how)
        }
        Ended::LockLost => failed(format!(
            "the lock {} could not be held while the command ran, so that was ended: another may run it",
            args.key
        )),
        Ended::Not => failed(format!(
            "a process that the command started cannot be ended; the lock {} is not given back, and ends by its time ({})",
            args.key,
            humantime::format_duration(args.ttl)
        )),
    })
}

fn start(lock: &Lock, args: &OnceArgs) -> std::io::Result<Family> {
    let (program, rest) = args.command.split_first().ok_or(std::io::ErrorKind::NotFound)?;
    let variables = vec![("POSTBELL_FENCE", lock.fence().to_string())];
    Start { program, args: rest, variables, hidden: &["POSTBELL_TOKEN"], piped: false, grace: args.grace }
        .run()
}

async fn until_ended(
    family: &mut Family,
    lock: &Lock,
    args: &OnceArgs,
    signals: &mut Signals,
) -> std::io::Result<Ended> {
    let told = tokio::select! {
        status = family.wait() => return Ok(Ended::ByItself(status?)),
        () = lock.lost() => return Ok(end_before_another(family, lock, args).await),
        told = signals.next() => told,
    };
    tracing::info!(signal = told.name(), "passing it on to the command");
    family.pass(told);
    let is_late = tokio::select! {
        status = family.wait() => return Ok(Ended::Stopped(told, status?)),
        () = lock.lost() => return Ok(end_before_another(family, lock, args).await),
        () = tokio::time::sleep(args.grace) => true,
        _ = signals.next() => false,
    };
    tracing::warn!(is_late, "the command goes on, so it is killed");
    Ok(match family.end().await {
        Some(status) => Ended::Stopped(told, status),
        None => Ended::Not,
    })
}

/// Ends the command before another process can have the lock. The command gets half of the time until then, and at
/// most the grace, to put its work away.
async fn end_before_another(family: &mut Family, lock: &Lock, args: &OnceArgs) -> Ended {
    match family.end_within(args.grace.min(lock.margin() / 2)).await {
        Some(_) => Ended::LockLost,
        None => Ended::Not,
    }
}

/// Gives the lock back. A fault is only logged: the lock then ends by its time, and how the command ended stays as it
/// is.
async fn give_back(lock: Lock, key: &str) {
    if let Err(e) = lock.release().await {
        tracing::warn!(key, error = %e, "the lock could not be given back, and ends by its time");
    }
}
