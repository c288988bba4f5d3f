//! `postbell once`: a command that one of several jobs runs, wherever they are started.

use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Context;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::Outcome;
use super::send::ConnectArgs;
use super::serve::stop_signal;
use crate::client::lock::{Acquired, Lock};

/// Somebody else is at it: try again later (EX_TEMPFAIL of sysexits.h).
const EXIT_HELD: u8 = 75;

/// A command that is asked to end has so long: less than a cancelled job of GitHub Actions, which is killed 7.5 s after it
/// was interrupted at the soonest.
const GRACE: Duration = Duration::from_secs(5);

/// Runs a command unless somebody else does, or did, under the same key.
///
/// The key names the task, such as daily-2026-11-24. The lock is renewed while the command runs; if this process dies,
/// another may run it after --ttl. Exit status 0 of the command says that the task is done: from then on `once` with
/// this key runs nothing and exits with 0. Any other status gives the lock back. SIGTERM and Ctrl-C are passed on as SIGTERM;
/// a command that goes on for 5 s more is killed. Where somebody else is at it, `once` exits with 75. The command finds the
/// lock's growing number in POSTBELL_FENCE.
#[derive(clap::Args)]
#[command(after_help = "Example:
  postbell once --agent nightly \"daily-$(date +%F)\" -- ./daily.sh")]
pub(super) struct OnceArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// For how long the lock is held if this process dies, 1s to 1h
    #[arg(long, env = "POSTBELL_TTL", default_value = "1min", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Names the task
    key: String,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

pub(super) async fn run(args: OnceArgs) -> Outcome {
    let (client, _deliveries) = args.connect.builder()?.window(0).connect().await?;
    let outcome = match client.lock(&args.key, args.ttl).await? {
        Acquired::Held(lock) => run_under(lock, &args).await,
        Acquired::Taken { holder, left, is_done } => {
            let holder = holder.unwrap_or_else(|| "another agent".to_owned());
            if is_done {
                tracing::info!(key = args.key, by = holder, "the task is done already");
                Ok(ExitCode::SUCCESS)
            } else {
                tracing::info!(key = args.key, by = holder, ?left, "somebody else is at it");
                Ok(ExitCode::from(EXIT_HELD))
            }
        }
    };
    client.close().await;
    outcome
}

async fn run_under(lock: Lock, args: &OnceArgs) -> Outcome {
    let (program, rest) = args.command.split_first().context("there is no command")?;
    let mut child = Command::new(program)
        .args(rest)
        .env("POSTBELL_FENCE", lock.fence().to_string())
        .env_remove("POSTBELL_TOKEN")
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{program} cannot be started"))?;
    let stop = stop_signal()?;
    let status = tokio::select! {
        status = child.wait() => status?,
        () = lock.lost() => {
            end(&mut child).await;
            anyhow::bail!("the lock {} was lost while the command ran, so that was ended: another may be at it", args.key);
        }
        () = stop => {
            ask_to_end(&child).await;
            if timeout(GRACE, child.wait()).await.is_err() {
                end(&mut child).await;
            }
            lock.release().await?;
            anyhow::bail!("stopped: the command was ended, and the lock {} given back", args.key);
        }
    };
    if status.success() {
        lock.done().await?;
        return Ok(ExitCode::SUCCESS);
    }
    lock.release().await?;
    Ok(failure(status))
}

/// By SIGTERM, so that it can put away what it has in hand; where there is no such thing it is ended.
async fn ask_to_end(child: &Child) {
    let Some(id) = child.id().filter(|_| cfg!(unix)) else { return };
    if let Err(e) = Command::new("kill").args(["-TERM", &id.to_string()]).status().await {
        tracing::warn!(error = %e, "the command could not be asked to end");
    }
}

async fn end(child: &mut Child) {
    // It may have ended this moment.
    let _ = child.kill().await;
}

fn failure(status: ExitStatus) -> ExitCode {
    ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}
