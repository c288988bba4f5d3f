//! `postbell agent`: who may connect.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use serde_json::json;

use super::settings::DatabaseArgs;
use super::{Exit, output, target};
use crate::store::agents::{self, Agent, NewAgent, Token, WAITING_COUNTED_MAX};
use crate::store::{Pool, Target};

/// A command uses one connection.
const POOL_SIZE: u32 = 1;

/// The subcommands; the help of `agent` itself is in [`super::Command`].
#[derive(Subcommand)]
pub(super) enum AgentCommand {
    /// Register an agent, or give its first token to one that is registered
    #[command(after_help = "Examples:
  postbell agent add validation-agent --environment railway
  export POSTBELL_TOKEN=$(postbell agent add nightly-report --environment github)")]
    Add(AddArgs),
    /// List agents, with the number of deliveries that wait for each
    List(ListArgs),
    /// Give an agent a new token; the old one is void at once, unless there is an overlap
    #[command(
        long_about = "Give an agent a new token.\n\nThe old one is void at once, and sessions that came in with it end \
                            within a second: right after a leak. With --overlap it is accepted so long beside the new \
                            one; whatever still uses it then is ended. Rotating again without an overlap ends it early."
    )]
    Rotate(RotateArgs),
    /// End an agent's sessions and refuse its hello; its deliveries keep waiting, and broadcasts leave it out
    Disable(NameArgs),
    /// Let a disabled agent connect again, with the token it had
    Enable(NameArgs),
    /// Take an agent off the registry
    #[command(
        long_about = "Take an agent off the registry.\n\nRefused while deliveries wait for it, unless --force: \
                            they are never deleted, and wait for an agent that is registered under that name again. \
                            `postbell doctor` lists them."
    )]
    Remove(RemoveArgs),
}

#[derive(Args)]
pub(super) struct AddArgs {
    /// The agent's name: messages are sent to it
    name: String,
    /// Where the agent runs: pc, railway, github, … [default: pc]
    #[arg(long, env = "POSTBELL_ENVIRONMENT")]
    environment: Option<String>,
    /// The agent's rights [default: agent]
    #[arg(long, env = "POSTBELL_ROLE", value_parser = ["agent", "orchestrator"])]
    role: Option<String>,
    /// The agent's kind, in your own words [default: its role]
    #[arg(long = "type", env = "POSTBELL_AGENT_TYPE", value_name = "TYPE")]
    agent_type: Option<String>,
    /// The agent's name for people [default: its name]
    #[arg(long, env = "POSTBELL_DISPLAY_NAME")]
    display_name: Option<String>,
    #[command(flatten)]
    rest: ListArgs,
}

#[derive(Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
}

#[derive(Args)]
pub(super) struct NameArgs {
    /// The agent's name
    name: String,
    #[command(flatten)]
    rest: ListArgs,
}

#[derive(Args)]
pub(super) struct RotateArgs {
    /// The agent's name
    name: String,
    /// How long the old token is accepted too, such as 1h; at most 30days
    #[arg(long, env = "POSTBELL_OVERLAP", default_value = "0s", value_parser = humantime::parse_duration)]
    overlap: Duration,
    #[command(flatten)]
    rest: ListArgs,
}

#[derive(Args)]
pub(super) struct RemoveArgs {
    /// The agent's name
    name: String,
    /// Remove the agent even if deliveries wait: they stay for an agent of that name
    #[arg(long, env = "POSTBELL_FORCE")]
    force: bool,
    #[command(flatten)]
    rest: ListArgs,
}

pub(super) async fn run(command: AgentCommand) -> Exit {
    match command {
        AgentCommand::Add(args) => add(&args).await?,
        AgentCommand::List(args) => show(&agents::list(&pool(&args)?).await?, args.json),
        AgentCommand::Rotate(args) => {
            let token = agents::rotate(&pool(&args.rest)?, &args.name, args.overlap).await?;
            show_token(&args.name, &token, args.rest.json);
        }
        AgentCommand::Disable(args) => set_enabled(&args, false).await?,
        AgentCommand::Enable(args) => set_enabled(&args, true).await?,
        AgentCommand::Remove(args) => {
            let waiting = agents::remove(&pool(&args.rest)?, &args.name, args.force).await?;
            if waiting > 0 {
                tracing::warn!("{waiting} deliveries keep waiting for an agent called {}", args.name);
            }
            done(&args.name, "removed", args.rest.json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn add(args: &AddArgs) -> anyhow::Result<()> {
    let agent = NewAgent {
        agent_id: &args.name,
        agent_name: args.display_name.as_deref(),
        agent_type: args.agent_type.as_deref(),
        environment: args.environment.as_deref(),
        role: args.role.as_deref(),
    };
    let added = agents::add(&pool(&args.rest)?, &agent).await?;
    if !added.is_new {
        let (role, environment) = (&added.role, &added.environment);
        tracing::info!("{} is already registered ({role}, {environment}); now it has a token", args.name);
    }
    if !added.enabled {
        tracing::warn!("{0} is disabled: `postbell agent enable {0}` lets it connect", args.name);
    }
    show_token(&args.name, &added.token, args.rest.json);
    Ok(())
}

async fn set_enabled(args: &NameArgs, enabled: bool) -> anyhow::Result<()> {
    agents::set_enabled(&pool(&args.rest)?, &args.name, enabled).await?;
    done(&args.name, if enabled { "enabled" } else { "disabled" }, args.rest.json);
    Ok(())
}

fn pool(args: &ListArgs) -> anyhow::Result<Pool> {
    Ok(one_connection(target(&args.database)?))
}

/// A pool of one connection, which is enough for a command.
pub(super) fn one_connection(target: Target) -> Pool {
    Pool::new(target, POOL_SIZE)
}

fn show_token(agent: &str, token: &Token, as_json: bool) {
    if as_json {
        output::json(&json!({"agent": agent, "token": token.reveal()}));
    } else {
        // Standard output gets the token alone: TOKEN=$(postbell agent add …).
        tracing::info!("the token of {agent}, shown once; give it to the agent as POSTBELL_TOKEN");
        output::line(token.reveal());
    }
}

fn done(agent: &str, what: &str, as_json: bool) {
    if as_json {
        output::json(&json!({"agent": agent, what: true}));
    } else {
        output::line(&format!("{agent} is {what}"));
    }
}

fn show(agents: &[Agent], as_json: bool) {
    if as_json {
        return output::json(&agents);
    }
    let rows: Vec<[String; 8]> = agents
        .iter()
        .map(|a| {
            let left = a.token_previous_until.and_then(|until| until.duration_since(SystemTime::now()).ok());
            let may = match (a.enabled, a.has_token, left) {
                (false, ..) => "disabled".to_owned(),
                (true, false, _) => "no token".to_owned(),
                (true, true, None) => "yes".to_owned(),
                (true, true, Some(left)) => {
                    let left = humantime::format_duration(Duration::from_secs(left.as_secs()));
                    format!("yes, the old token too for {left}")
                }
            };
            let more = if a.waiting == WAITING_COUNTED_MAX { "+" } else { "" };
            [
                a.agent_id.clone(),
                a.environment.clone(),
                a.role.clone(),
                a.status.clone(),
                may,
                output::ago(a.last_heartbeat),
                format!("{}{more}", a.waiting),
                a.dead.to_string(),
            ]
        })
        .collect();
    output::table(
        ["AGENT", "ENVIRONMENT", "ROLE", "STATUS", "MAY CONNECT", "SEEN", "WAITING", "DEAD"],
        &rows,
    );
}

/// Gives the agent a new token, and registers an agent that is missing. The database keeps only a token's hash, so a
/// token of an earlier run cannot be shown again.
pub(super) async fn token_of(pool: &Pool, agent: &str) -> anyhow::Result<Token> {
    match agents::rotate(pool, agent, Duration::ZERO).await {
        Ok(token) => Ok(token),
        Err(_) => Ok(agents::add(pool, &NewAgent { agent_id: agent, ..NewAgent::default() }).await?.token),
    }
}
