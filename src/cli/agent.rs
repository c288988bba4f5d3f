//! `postbell agent`: who may connect.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::settings::DatabaseArgs;
use super::{Outcome, output, target};
use crate::postgres::agents::{self, Agent, Token};
use crate::postgres::{Pool, Target};

/// A command uses one connection.
const POOL_SIZE: u32 = 1;

/// Says which agents may connect.
///
/// An agent needs a name and a token. The token is shown once; the database keeps only its SHA-256.
#[derive(Subcommand)]
pub(super) enum AgentCommand {
    /// Register an agent, or give its first token to one that is registered
    #[command(after_help = "Example: postbell agent add validation-agent --environment railway")]
    Add(AddArgs),
    /// List agents, with what waits for each
    List(ListArgs),
    /// Give an agent a new token; the old one is void at its next hello
    Rotate(NameArgs),
    /// Refuse an agent's next hello; what waits for it keeps waiting
    Disable(NameArgs),
    /// Forget an agent
    Remove(RemoveArgs),
}

#[derive(Args)]
pub(super) struct AddArgs {
    /// The agent's name: messages are sent to it
    name: String,
    /// Where it runs: pc, railway, github, …
    #[arg(long, env = "ENVIRONMENT")]
    environment: String,
    /// What it may do
    #[arg(long, env = "POSTBELL_ROLE", default_value = "agent", value_parser = ["agent", "orchestrator"])]
    role: String,
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
pub(super) struct RemoveArgs {
    /// The agent's name
    name: String,
    /// Even if messages wait for it: they stay for an agent of that name
    #[arg(long, env = "POSTBELL_FORCE")]
    force: bool,
    #[command(flatten)]
    rest: ListArgs,
}

pub(super) async fn run(command: AgentCommand) -> Outcome {
    match command {
        AgentCommand::Add(args) => {
            let added = agents::add(&pool(&args.rest)?, &args.name, &args.environment, &args.role).await?;
            if added.was_registered {
                let environment = &added.environment;
                tracing::info!("{} was registered in {environment} already; now it has a token", args.name);
            }
            show_token(&args.name, &added.token, args.rest.json);
        }
        AgentCommand::List(args) => show(&agents::list(&pool(&args)?).await?, args.json),
        AgentCommand::Rotate(args) => {
            let token = agents::rotate(&pool(&args.rest)?, &args.name).await?;
            show_token(&args.name, &token, args.rest.json);
        }
        AgentCommand::Disable(args) => {
            agents::disable(&pool(&args.rest)?, &args.name).await?;
            done(&args.name, "disabled", args.rest.json);
        }
        AgentCommand::Remove(args) => {
            agents::remove(&pool(&args.rest)?, &args.name, args.force).await?;
            done(&args.name, "removed", args.rest.json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn pool(args: &ListArgs) -> anyhow::Result<Pool> {
    Ok(one_connection(target(&args.database)?))
}

/// A pool for a command.
pub(super) fn one_connection(target: Target) -> Pool {
    Pool::new(target, POOL_SIZE)
}

fn show_token(agent: &str, token: &Token, as_json: bool) {
    if as_json {
        output::json(&json!({"agent": agent, "token": token.reveal()}));
    } else {
        // The token alone on standard output: TOKEN=$(postbell agent add …).
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
        let rows: Vec<_> = agents
            .iter()
            .map(|a| {
                json!({
                    "agent": a.agent, "environment": a.environment, "role": a.role, "status": a.status,
                    "enabled": a.enabled, "has_token": a.has_token, "ready": a.ready, "dead": a.dead,
                    "last_heartbeat": a.last_heartbeat.map(|at| humantime::format_rfc3339_millis(at).to_string()),
                })
            })
            .collect();
        return output::json(&rows);
    }
    let rows: Vec<[String; 8]> = agents
        .iter()
        .map(|a| {
            let may = match (a.enabled, a.has_token) {
                (false, _) => "disabled",
                (true, false) => "no token",
                (true, true) => "yes",
            };
            [
                a.agent.clone(),
                a.environment.clone(),
                a.role.clone(),
                a.status.clone(),
                may.to_owned(),
                output::ago(a.last_heartbeat),
                a.ready.to_string(),
                a.dead.to_string(),
            ]
        })
        .collect();
    output::table(["AGENT", "ENVIRONMENT", "ROLE", "STATUS", "MAY CONNECT", "SEEN", "WAITING", "DEAD"], &rows);
}
