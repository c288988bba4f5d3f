//! `postbell group` and `postbell lock`: who may take from a group, and who may hold a lock.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::agent::one_connection;
use super::settings::DatabaseArgs;
use super::{Exit, output, target};
use crate::store::Pool;
use crate::store::grants::{self, Grant, Kind};

/// The subcommands; the help of `group` and `lock` themselves is in [`super::Command`].
#[derive(Subcommand)]
pub(super) enum GrantCommand {
    /// Allow an agent; as long as any agent is allowed, every other is refused
    Allow(AllowArgs),
    /// Take the permission back, from one agent or from all; when none is left, the agents' roles decide again
    Revoke(RevokeArgs),
    /// List what was allowed
    List(ListArgs),
}

#[derive(Args)]
pub(super) struct AllowArgs {
    /// The name; with * at its end, every name that begins so
    name: String,
    /// The agent
    agent: String,
    #[command(flatten)]
    rest: ListArgs,
}

#[derive(Args)]
pub(super) struct RevokeArgs {
    /// The name, as it was allowed
    name: String,
    /// The agent [default: all of them]
    agent: Option<String>,
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

pub(super) async fn run(kind: Kind, command: GrantCommand) -> Exit {
    match command {
        GrantCommand::Allow(args) => {
            let grant = Grant { name: args.name, agent: args.agent };
            grants::allow(&pool(&args.rest)?, kind, &grant).await?;
            if args.rest.json {
                output::json(&json!({kind.as_str(): grant.name, "agent": grant.agent, "allowed": true}));
            } else {
                output::line(&format!("{} is allowed the {} {}", grant.agent, kind.as_str(), grant.name));
            }
        }
        GrantCommand::Revoke(args) => {
            let revoked = grants::revoke(&pool(&args.rest)?, kind, &args.name, args.agent.as_deref()).await?;
            if args.rest.json {
                output::json(&json!({kind.as_str(): args.name, "revoked": revoked}));
            } else {
                output::line(&format!("{revoked} revoked of the {} {}", kind.as_str(), args.name));
            }
        }
        GrantCommand::List(args) => {
            let granted = grants::list(&pool(&args)?, kind).await?;
            if args.json {
                output::json(&granted);
            } else {
                let rows: Vec<[String; 2]> = granted.into_iter().map(|g| [g.name, g.agent]).collect();
                output::table(["NAME", "AGENT"], &rows);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn pool(args: &ListArgs) -> anyhow::Result<Pool> {
    Ok(one_connection(target(&args.database)?))
}
