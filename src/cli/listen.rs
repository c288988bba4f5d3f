//! `postbell listen`: an agent from the command line. With `--exec` a shell script is an agent.

use std::process::{ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::send::ConnectArgs;
use super::serve::stop_signal;
use super::{Outcome, output};
use crate::client::{ClientError, Delivery, State};

/// Is an agent: prints a JSON line for each message and acknowledges it, or hands it to a command.
///
/// With --exec the command gets the payload on standard input, and POSTBELL_ID, POSTBELL_FROM, POSTBELL_TYPE,
/// POSTBELL_PRIORITY, POSTBELL_ATTEMPT, POSTBELL_CREATED_AT, POSTBELL_CORRELATION_ID and POSTBELL_HEADERS in its
/// environment. Exit status 0 acknowledges; any other fails the attempt, with the last line of standard error as the
/// reason; so does a command that takes too long.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  postbell listen --agent validation-agent
  postbell listen --agent validation-agent --exec './validate.sh' --window 4
  postbell listen --agent nightly --until-idle 5s --exec ./job.sh   # in a scheduled job")]
pub(super) struct ListenArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// The most messages at once; with --exec so many commands run side by side
    #[arg(long, env = "POSTBELL_WINDOW", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    window: u32,
    /// Leave after so many messages
    #[arg(long, env = "POSTBELL_MAX", value_parser = clap::value_parser!(u64).range(1..))]
    max: Option<u64>,
    /// Leave when nothing came for so long, such as 5s
    #[arg(long, env = "POSTBELL_UNTIL_IDLE", value_parser = humantime::parse_duration)]
    until_idle: Option<Duration>,
    /// Run this by the shell for each message
    #[arg(long, env = "POSTBELL_EXEC")]
    exec: Option<String>,
    /// How long the command may take
    #[arg(long, env = "POSTBELL_EXEC_TIMEOUT", default_value = "1h", value_parser = humantime::parse_duration)]
    exec_timeout: Duration,
    /// Subscribe to this topic first, such as county.* or alerts.>; may be given several times. The subscription stays when
    /// we leave
    #[arg(long, env = "POSTBELL_SUBSCRIBE", value_name = "PATTERN", value_delimiter = ' ')]
    subscribe: Vec<String>,
    /// Take from this group, of which each message goes to one, instead of from the agent's own inbox
    #[arg(long, env = "POSTBELL_GROUP")]
    group: Option<String>,
    /// A name for this process: a newer one of the same name takes over
    #[arg(long, env = "POSTBELL_INSTANCE")]
    instance: Option<String>,
}

pub(super) async fn run(args: ListenArgs) -> Outcome {
    // Never more at once than there is still to take: the rest stays with the broker.
    let window = args.max.map_or(args.window, |max| args.window.min(u32::try_from(max).unwrap_or(u32::MAX)));
    let mut builder = args.connect.builder()?.window(window);
    if let Some(instance) = &args.instance {
        builder = builder.instance(instance);
    }
    if let Some(group) = &args.group {
        builder = builder.group(group);
    }
    let (client, mut deliveries) = builder.connect().await?;
    for pattern in &args.subscribe {
        client.subscribe(pattern).await?;
    }
    tracing::info!(agent = args.connect.agent, "listening; Ctrl-C leaves");
    let stop = stop_signal()?;
    tokio::pin!(stop);
    let exec = args.exec.map(|command| Arc::new(Exec { command, limit: args.exec_timeout }));
    let mut running = JoinSet::new();
    let mut taken = 0;
    loop {
        let idle = tokio::time::sleep(args.until_idle.unwrap_or_default());
        tokio::select! {
            delivery = deliveries.next() => {
                let Some(delivery) = delivery else { break };
                taken += 1;
                match &exec {
                    Some(exec) => {
                        let exec = exec.clone();
                        running.spawn(async move { exec.handle(delivery).await });
                    }
                    None => print_and_ack(delivery).await,
                }
                let left = args.max.map(|max| max - taken.min(max));
                match left {
                    Some(0) => break,
                    Some(left) if left < u64::from(window) => client.set_window(left as u32).await?,
                    _ => {}
                }
            }
            Some(_) = running.join_next(), if !running.is_empty() => {}
            () = idle, if args.until_idle.is_some() && running.is_empty() => break,
            () = &mut stop => break,
        }
    }
    // Commands that run are waited for: their messages are theirs.
    while running.join_next().await.is_some() {}
    let state = client.state();
    client.close().await;
    let end = state.borrow().clone();
    match end {
        State::Closed(e) if e != ClientError::Closed => Err(e.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// A message as it is printed: the payload as it came, to the digit.
#[derive(Serialize)]
struct Line<'a> {
    id: String,
    from: &'a str,
    r#type: &'a str,
    priority: u8,
    attempt: u32,
    created_at: &'a str,
    correlation_id: Option<&'a str>,
    headers: Option<&'a RawValue>,
    payload: Option<&'a RawValue>,
}

async fn print_and_ack(delivery: Delivery) {
    output::json(&Line {
        id: delivery.id().to_string(),
        from: delivery.from(),
        r#type: delivery.message_type(),
        priority: delivery.priority(),
        attempt: delivery.attempt(),
        created_at: delivery.created_at(),
        correlation_id: delivery.correlation_id(),
        headers: delivery.headers(),
        payload: serde_json::from_str(delivery.payload()).ok(),
    });
    delivery.ack().await;
}

/// A command that handles messages.
struct Exec {
    command: String,
    limit: Duration,
}

impl Exec {
    async fn handle(&self, delivery: Delivery) {
        match self.run(&delivery).await {
            Ok(()) => delivery.ack().await,
            Err(reason) => {
                tracing::warn!(id = %delivery.id(), %reason, "the command failed");
                delivery.fail(&reason, None).await;
            }
        }
    }

    async fn run(&self, delivery: &Delivery) -> Result<(), String> {
        let mut child =
            self.command(delivery).spawn().map_err(|e| format!("the command cannot be run: {e}"))?;
        let group = child.id();
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let payload = delivery.payload();
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A command that does not read its input may still succeed.
                let _ = stdin.write_all(payload.as_bytes()).await;
            }
        };
        let ended = async { tokio::join!(pass_on(stderr), feed, child.wait()) };
        match timeout(self.limit, ended).await {
            Ok((_, (), Ok(status))) if status.success() => Ok(()),
            Ok((last_line, (), Ok(status))) => {
                Err(last_line.unwrap_or_else(|| format!("the command ended with {status}")))
            }
            Ok((_, (), Err(e))) => Err(format!("the command was lost: {e}")),
            Err(_) => {
                kill_group(group).await;
                Err(format!("the command took longer than {}", humantime::format_duration(self.limit)))
            }
        }
    }

    fn command(&self, delivery: &Delivery) -> Command {
        let (shell, flag) = if cfg!(windows) { ("cmd", "/C") } else { ("/bin/sh", "-c") };
        let mut command = Command::new(shell);
        command
            .args([flag, &self.command])
            .env_remove("POSTBELL_TOKEN")
            .env_remove("POSTBELL_TOKEN_FILE")
            .env("POSTBELL_ID", delivery.id().to_string())
            .env("POSTBELL_FROM", delivery.from())
            .env("POSTBELL_TYPE", delivery.message_type())
            .env("POSTBELL_PRIORITY", delivery.priority().to_string())
            .env("POSTBELL_ATTEMPT", delivery.attempt().to_string())
            .env("POSTBELL_CREATED_AT", delivery.created_at())
            .env("POSTBELL_CORRELATION_ID", delivery.correlation_id().unwrap_or(""))
            .env("POSTBELL_HEADERS", delivery.headers().map_or("", RawValue::get))
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // A group of its own: what it starts can be ended with it, and Ctrl-C lets it finish its message.
        #[cfg(unix)]
        command.process_group(0);
        command
    }
}

/// Ends a command with everything it started: the shell alone would leave its children running.
async fn kill_group(leader: Option<u32>) {
    let Some(leader) = leader.filter(|_| cfg!(unix)) else { return };
    let kill = Command::new("kill").args(["-KILL", "--", &format!("-{leader}")]).status().await;
    if let Err(e) = kill {
        tracing::warn!(error = %e, "a command that took too long could not be ended");
    }
}

/// Shows what a command writes to standard error, and keeps the last line.
async fn pass_on(stderr: Option<tokio::process::ChildStderr>) -> Option<String> {
    let mut lines = BufReader::new(stderr?).lines();
    let mut last = None;
    while let Ok(Some(line)) = lines.next_line().await {
        output::passed_on(&line);
        if !line.trim().is_empty() {
            last = Some(line);
        }
    }
    last
}
