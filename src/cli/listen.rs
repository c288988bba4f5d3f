//! `postbell listen`: an agent from the command line. With `--exec` a shell script is an agent.

mod confirm;
mod exec;
mod reason;
pub(super) mod summary;
mod tally;

use std::collections::HashSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::send::ConnectArgs;
use super::signals::{Signals, Told};
use super::{Exit, output};
use crate::broker::config::ConfigError;
use exec::{Exec, Handled};
use postbell_client::{Client, ClientError, Deliveries, Delivery, State};
use tally::Tally;

/// How long a message that is left to others stays away: without a delay, a message that nobody handles would come
/// again at once, for ever.
const LEAVE_FOR: Duration = Duration::from_secs(60);
/// At most so many unhandled types are logged: a sender that makes up types must not fill the log.
const TYPES_TOLD_MAX: usize = 32;

/// Is an agent: prints a JSON line for each message and acknowledges it, or hands it to a command.
///
/// With --exec the command gets the payload on standard input, and POSTBELL_ID, POSTBELL_FROM, POSTBELL_TYPE,
/// POSTBELL_PRIORITY, POSTBELL_ATTEMPT, POSTBELL_CREATED_AT, POSTBELL_CORRELATION_ID and POSTBELL_HEADERS in its
/// environment. Exit status 0 acknowledges the message. Any other status fails the attempt, with the last line of
/// standard error as the reason; a command that takes too long fails it as well. Processes that the command leaves
/// behind are ended.
///
/// SIGTERM, Ctrl-C, SIGHUP and SIGQUIT end it in order: no further message is taken, and the signal is passed on to
/// the commands and all that they started. A command that goes on after --grace is killed, at a second signal at
/// once; its message is given back, and the attempt does not count. A message that cannot be read is a dead letter at
/// once.
///
/// At the end the numbers of handled messages and failed attempts are written to standard error, and in a job of
/// GitHub Actions also to the job's summary.
#[derive(clap::Args)]
#[command(
    after_help = "Exit status: 0; 1 it left by itself (--max, --until-idle) and the last attempt of some message had failed, \
or its end could not be told to the broker, unless --failures-ok, or the connection ended; 126 and 127 the command cannot be started; 64 wrong usage.

Examples:
  postbell listen --agent validation-agent
  postbell listen --agent validation-agent --exec './validate.sh' --window 4
  postbell listen --agent nightly --until-idle 5s --exec ./job.sh   # in a scheduled job
  postbell listen --agent nightly --types command,query --exec ./job.sh   # leaves other types"
)]
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
    /// Run this command by the shell for each message
    #[arg(long, env = "POSTBELL_EXEC")]
    exec: Option<String>,
    /// How long the command may take
    #[arg(long, env = "POSTBELL_EXEC_TIMEOUT", default_value = "1h", value_parser = humantime::parse_duration)]
    exec_timeout: Duration,
    /// How long a command may go on after it was asked to end
    #[arg(long, env = "POSTBELL_GRACE", default_value = "5s", value_parser = humantime::parse_duration)]
    grace: Duration,
    /// Exit with 0 though attempts failed: the broker tries them again, or keeps them as dead letters
    #[arg(long, env = "POSTBELL_FAILURES_OK")]
    failures_ok: bool,
    /// Handle only messages of these types, such as command,query
    #[arg(long, env = "POSTBELL_TYPES", value_name = "TYPES", value_delimiter = ',')]
    types: Vec<String>,
    /// Do this with messages of other types
    #[arg(long, env = "POSTBELL_OTHERS", value_enum, default_value = "leave", requires = "types")]
    others: Others,
    /// Subscribe to this topic first, such as county.* or alerts.>; may be given several times. The subscription stays when
    /// we leave
    #[arg(long, env = "POSTBELL_SUBSCRIBE", value_name = "PATTERN", value_delimiter = ' ')]
    subscribe: Vec<String>,
    /// Take from this group's inbox instead of the agent's own; each message of a group goes to one agent
    #[arg(long, env = "POSTBELL_GROUP")]
    group: Option<String>,
    /// A name for this process: a newer one of the same name takes over
    #[arg(long, env = "POSTBELL_INSTANCE")]
    instance: Option<String>,
}

/// The choice for messages of types that are not handled here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Others {
    /// They are given back, uncounted, for another process of this agent, and come again after a minute
    Leave,
    /// They are dead letters at once
    Dead,
}

pub(super) async fn run(args: ListenArgs) -> Exit {
    let mut signals = Signals::new()?;
    let exec = match &args.exec {
        // The shell would do nothing, and say that all is well.
        Some(command) if command.trim().is_empty() => {
            return Err(ConfigError::new(
                "--exec (POSTBELL_EXEC) is blank: give it a command, or leave it out",
            )
            .into());
        }
        Some(command) => {
            if let Some(code) = exec::why_not(command) {
                return Ok(ExitCode::from(code));
            }
            Some(Arc::new(Exec::new(command, args.exec_timeout, args.grace)))
        }
        None => None,
    };
    // The window never exceeds the number of messages still to take, so that the rest stays with the broker.
    let window = args.max.map_or(args.window, |max| args.window.min(u32::try_from(max).unwrap_or(u32::MAX)));
    let mut builder = args.connect.builder()?.window(window);
    if let Some(instance) = &args.instance {
        builder = builder.instance(instance);
    }
    if let Some(group) = &args.group {
        builder = builder.group(group);
    }
    let (client, deliveries) = tokio::select! {
        connected = builder.connect() => connected?,
        told = signals.next() => return Ok(ExitCode::from(told.code())),
    };
    for pattern in &args.subscribe {
        client.subscribe(pattern).await?;
    }
    tracing::info!(agent = args.connect.agent, "listening; Ctrl-C leaves");
    let (told, _) = watch::channel(None);
    let listener = Listener {
        args: &args,
        client: &client,
        window,
        exec,
        running: JoinSet::new(),
        told,
        taken: 0,
        types_told: HashSet::new(),
        tally: Tally::default(),
    };
    let (left, mut tally) = listener.listen(deliveries, &mut signals).await?;
    tally.unreadable(client.unreadable());
    let state = client.state();
    client.close().await;
    let end = state.borrow().clone();
    tally.tell(&args.connect.agent);
    match (end, left) {
        (State::Closed(e), _) if e != ClientError::Closed => Err(e.into()),
        (_, Left::NotStarted(code)) => Ok(ExitCode::from(code)),
        (_, Left::ByItself) if tally.has_failures() && !args.failures_ok => Ok(ExitCode::FAILURE),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Why listening ended.
enum Left {
    ByItself,
    Told,
    /// The command cannot be started; with the exit status that says so.
    NotStarted(u8),
}

struct Listener<'a> {
    args: &'a ListenArgs,
    client: &'a Client,
    window: u32,
    exec: Option<Arc<Exec>>,
    running: JoinSet<Handled>,
    /// The latest signal to pass on to the commands, and how many signals came so far.
    told: watch::Sender<Option<(Told, u32)>>,
    taken: u64,
    types_told: HashSet<String>,
    tally: Tally,
}

impl Listener<'_> {
    async fn listen(
        mut self,
        mut deliveries: Deliveries,
        signals: &mut Signals,
    ) -> anyhow::Result<(Left, Tally)> {
        let state = self.client.state();
        // Deliveries that came after the command was found unable to start; they are given back as they are.
        let mut untouched = Vec::new();
        let mut left = loop {
            let idle = tokio::time::sleep(self.args.until_idle.unwrap_or_default());
            tokio::select! {
                delivery = deliveries.next() => {
                    let Some(delivery) = delivery else { break Left::ByItself };
                    if self.exec.as_ref().is_some_and(|exec| exec.is_useless()) {
                        untouched.push(delivery);
                        continue;
                    }
                    let Some(delivery) = self.ours(delivery).await else { continue };
                    self.taken += 1;
                    let still = self.args.max.map(|max| max.saturating_sub(self.taken));
                    if let Some(still) = still.filter(|still| *still < u64::from(self.window)) {
                        // Before an outcome makes room. A client that is closed gets nothing anyway.
                        let _ = self.client.set_window(still as u32).await;
                    }
                    self.handle(delivery);
                    if still == Some(0) {
                        break Left::ByItself;
                    }
                }
                Some(handled) = self.running.join_next(), if !self.running.is_empty() => {
                    if let Some(code) = self.tally.count_joined(handled) {
                        break Left::NotStarted(code);
                    }
                }
                // While the broker is away nothing can come, so the time does not count as idle.
                () = idle, if self.args.until_idle.is_some() && self.running.is_empty() => {
                    if matches!(*state.borrow(), State::Connected { .. }) {
                        break Left::ByItself;
                    }
                }
                told = signals.next() => {
                    self.tell(told);
                    break Left::Told;
                }
            }
        };
        // The window closes before any outcome makes room for another message: a message that is pushed to a leaving
        // agent loses an attempt. A closed client gets nothing anyway, so an error here changes nothing.
        let _ = self.client.set_window(0).await;
        drop(untouched);
        // Running commands are waited for: each still has its message in hand.
        loop {
            tokio::select! {
                handled = self.running.join_next() => {
                    let Some(handled) = handled else { break };
                    if let Some(code) = self.tally.count_joined(handled) {
                        left = Left::NotStarted(code);
                    }
                }
                told = signals.next() => self.tell(told),
            }
        }
        Ok((left, self.tally))
    }

    /// The delivery, or `None` after an outcome for a type that is not handled here.
    async fn ours(&mut self, delivery: Delivery) -> Option<Delivery> {
        let kind = delivery.message_type();
        if self.args.types.is_empty() || self.args.types.iter().any(|one| one == kind) {
            return Some(delivery);
        }
        let others = self.args.others;
        if self.types_told.len() < TYPES_TOLD_MAX && self.types_told.insert(kind.to_owned()) {
            let becomes = if others == Others::Dead { "dead letters" } else { "left to others" };
            tracing::warn!(r#type = %reason::harmless(kind), becomes, "messages of this type are not handled here");
        }
        match others {
            Others::Leave => delivery.release(LEAVE_FOR).await,
            Others::Dead => {
                let sentence = format!("nobody here handles messages of the type {}", reason::harmless(kind));
                delivery.dead(&sentence).await;
            }
        }
        self.tally.count_other(others == Others::Dead);
        None
    }

    fn handle(&mut self, delivery: Delivery) {
        let told = self.told.subscribe();
        match &self.exec {
            Some(exec) => {
                let exec = exec.clone();
                self.running.spawn(async move { exec.handle(delivery, told).await });
            }
            None => {
                print(&delivery);
                self.running.spawn(confirm::acked(delivery, told));
            }
        }
    }

    fn tell(&self, told: Told) {
        self.told.send_modify(|now| *now = Some((told, now.map_or(1, |(_, times)| times + 1))));
        if !self.running.is_empty() {
            tracing::info!(
                signal = told.name(),
                commands = self.running.len(),
                "leaving; passing it on to the commands"
            );
        }
    }
}

/// A message as it is printed. The payload is passed on as it came, to the digit.
#[derive(Serialize)]
struct PrintedMessage<'a> {
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

fn print(delivery: &Delivery) {
    output::json(&PrintedMessage {
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
}
