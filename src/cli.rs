//! The command line, one file a command. A command's result goes to standard output, the log to standard error.
//!
//! `settings` has the options of `serve`, and `environment` the variables that stand in for options; `output` alone prints, since a name
//! may hold what a terminal obeys; `signals` hears the order to stop; `family` keeps the commands that `once` and `listen` start;
//! `remote` asks a running broker.
//!
//! A command must never decide what becomes of a message: the command asks a broker, or the store, and tells what was answered. Only `main`
//! calls it.

mod agent;
mod aside;
mod dead;
mod demo;
mod dev;
mod doctor;
mod environment;
mod family;
mod grants;
mod health;
mod listen;
mod migrate;
mod once;
mod output;
mod ping;
mod policies;
mod remote;
mod send;
mod serve;
mod settings;
mod signals;
mod tail;
mod top;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::broker::config::{ConfigError, EXIT_USAGE};
use crate::store::Target;
use crate::store::grants::Kind as Grant;
use environment::Refused;
use output::log::{Kind, Stderr};
use settings::DatabaseArgs;

/// The result of a command: its exit status, or the fault that is printed as one line.
type Exit = anyhow::Result<ExitCode>;

/// A message broker for agents that share a Postgres database.
///
/// Agents and plain SQL insert into agent_messages; the broker pushes each message to the agents it is for, tracks
/// every delivery until it is acknowledged, retries, and keeps dead letters.
///
/// Try it: `postbell dev --demo` brings its own Postgres.
#[derive(Parser)]
#[command(version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Args)]
struct LogArgs {
    /// The level of the log on standard error: error, warn, info or debug; or a filter such as postbell=debug
    #[arg(long, env = "POSTBELL_LOG", global = true, default_value = "info", hide_default_value = true)]
    log: String,
    /// The format of the log
    #[arg(long, env = "POSTBELL_LOG_FORMAT", global = true, default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker
    Serve(settings::BrokerArgs),
    /// Run a broker with a Postgres of its own, to try and to develop
    Dev(dev::DevArgs),
    // A command without a doc comment here takes its whole help from the type of its arguments.
    Migrate(migrate::MigrateArgs),
    /// Say which agents may connect
    ///
    /// An agent needs a name and a token. The token is shown once; the database keeps only its SHA-256.
    #[command(subcommand)]
    Agent(agent::AgentCommand),
    /// Say which agents may take from a group
    ///
    /// A group without an entry is open to every agent whose role may take from groups
    /// (postbell.role_limits.may_take_groups). Sessions of an agent that loses the right are ended within a second.
    #[command(subcommand)]
    Group(grants::GrantCommand),
    /// Say which agents may hold a lock
    ///
    /// A lock without an entry may be held by every agent whose role may lock (postbell.role_limits.may_lock).
    #[command(subcommand)]
    Lock(grants::GrantCommand),
    /// Show, redrive or purge deliveries that were given up
    ///
    /// A delivery is a dead letter after max_attempts failures, when its agent says so, or when it can never be
    /// delivered. A dead letter keeps its message, the reason and the number of attempts until it is redriven or purged.
    #[command(subcommand)]
    Dead(dead::DeadCommand),
    /// Show, retry or drop changes that your tables did not take
    ///
    /// A constraint, a trigger or a lock of agent_messages may keep an outcome from being written. The delivery is
    /// over all the same; the message's new status waits here, with the reason, until the table takes it.
    #[command(subcommand)]
    Aside(aside::AsideCommand),
    /// Rights and row level policies for the roles of Supabase's API
    ///
    /// anon: nothing. authenticated: sends as the agent in its token's claim, reads what is that agent's. service_role:
    /// all. Applied on purpose, never by `postbell migrate`.
    #[command(subcommand)]
    Policies(policies::PoliciesCommand),
    Doctor(doctor::DoctorArgs),
    Health(health::HealthArgs),
    Ping(ping::PingArgs),
    /// Watch the mesh in a terminal, as on the status page
    Top(top::TopArgs),
    /// Follow what passes, line by line
    Tail(tail::TailArgs),
    /// Send messages through the broker
    Send(send::SendArgs),
    /// Be an agent: print or handle each message and acknowledge it
    Listen(listen::ListenArgs),
    /// Run a command unless somebody else does, or did, under the same key
    Once(once::OnceArgs),
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    run_with(std::env::args_os())
}

/// Runs a command line, whose first word is the program's name: for programs that are Postbell among other things.
pub fn run_with(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    family::remember(&words);
    #[cfg(unix)]
    if words.get(1).is_some_and(|word| word == family::WORD) {
        return family::keeper::main(&words[2..]);
    }
    let cli: Cli = match environment::parse(&words) {
        Ok(cli) => cli,
        Err(refused) => return say(refused),
    };
    if let Err(sentence) = start_log(&cli.log) {
        output::fault(&sentence);
        return ExitCode::from(EXIT_USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            output::fault(&format!("the process could not start its threads: {e}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(code) => code,
        Err(e) => {
            output::fault(&format!("{e:#}"));
            let usage = e.is::<ConfigError>();
            ExitCode::from(if usage { EXIT_USAGE } else { 1 })
        }
    }
}

/// Says why there is nothing to run.
fn say(refused: Refused) -> ExitCode {
    match refused {
        // Help and version are asked for; anything else is a wrong command line.
        Refused::Line(e) if !e.use_stderr() => {
            let _ = e.print();
            return ExitCode::SUCCESS;
        }
        Refused::Line(e) => output::refusal(&e.to_string()),
        Refused::Variable(sentence) => output::fault(&sentence),
    }
    ExitCode::from(EXIT_USAGE)
}

async fn run(command: Command) -> Exit {
    match command {
        Command::Serve(args) => serve::run(args).await,
        Command::Dev(args) => dev::run(args).await,
        Command::Migrate(args) => migrate::run(args).await,
        Command::Agent(command) => agent::run(command).await,
        Command::Group(command) => grants::run(Grant::Group, command).await,
        Command::Lock(command) => grants::run(Grant::Lock, command).await,
        Command::Dead(command) => dead::run(command).await,
        Command::Aside(command) => aside::run(command).await,
        Command::Policies(command) => policies::run(command).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Health(args) => health::run(args).await,
        Command::Ping(args) => ping::run(args).await,
        Command::Top(args) => top::run(args).await,
        Command::Tail(args) => tail::run(args).await,
        Command::Send(args) => send::run(args).await,
        Command::Listen(args) => listen::run(args).await,
        Command::Once(args) => once::run(args).await,
    }
}

fn start_log(args: &LogArgs) -> Result<(), String> {
    let filter: EnvFilter = args.log.parse().map_err(|e| {
        format!("POSTBELL_LOG {:?} is no filter such as info or postbell=debug: {e}", args.log)
    })?;
    let colourful = output::is_colourful(&std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(colourful)
        // The subscriber would report a failed write to standard error on standard error, and panic.
        .log_internal_errors(false);
    if args.log_format == "json" {
        builder.json().with_writer(Stderr(Kind::Json)).init()
    } else {
        builder.with_writer(Stderr(Kind::Text { colourful })).init()
    }
    Ok(())
}

/// The database of a command that needs nothing else.
fn target(args: &DatabaseArgs) -> anyhow::Result<Target> {
    Ok(crate::broker::config::database(|env| args.value(env))?)
}
