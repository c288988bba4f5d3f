//! `postbell aside`: changes that the user's tables did not take.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::agent::one_connection;
use super::dead::chosen::{ChosenArgs, CommonArgs};
use super::{Exit, output, target};
use crate::store::aside::{self, Chosen, Filter};
use crate::store::{Connection, settle};

/// Said of numbers that are not in `postbell.set_aside`.
const UNKNOWN: &str = "not set aside: `postbell aside list`";

/// The subcommands; the help of `aside` itself is in [`super::Command`].
#[derive(Subcommand)]
pub(super) enum AsideCommand {
    /// List what is set aside, the newest first
    #[command(after_help = "Examples:
  postbell aside list --inbox validation-agent
  postbell aside list --kind dead --json | jq -r '.[].reason' | sort | uniq -c")]
    List(ListArgs),
    /// Try to write it now; a broker also tries by itself, less and less often
    #[command(after_help = "Examples:
  postbell aside retry 12 13
  postbell aside retry --all

Exit status: 0 nothing of it is left; 1 something is still refused; 64 wrong usage.")]
    Retry(ChosenArgs),
    /// Give up writing it: the message keeps its present status and is delivered to nobody again
    #[command(after_help = "Examples:
  postbell aside drop 12
  postbell aside drop --inbox old-agent")]
    Drop(ChosenArgs),
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Only of this inbox, or of this agent's presence
    #[arg(long, env = "POSTBELL_INBOX")]
    inbox: Option<String>,
    /// Only of this kind
    #[arg(long, env = "POSTBELL_KIND", value_parser = ["ack", "retry", "dead", "expired", "presence"])]
    kind: Option<String>,
    /// How many at most
    #[arg(long, env = "POSTBELL_LIMIT", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
    /// Only lower numbers than this one
    #[arg(long, env = "POSTBELL_BEFORE", value_name = "NUMBER")]
    before: Option<i64>,
    #[command(flatten)]
    common: CommonArgs,
}

impl ChosenArgs {
    fn aside(&self) -> Chosen<'_> {
        let ids = Some(self.ids.as_slice()).filter(|ids| !ids.is_empty());
        Chosen { ids, inbox: self.inbox.as_deref() }
    }

    /// A connection as the settler has: with its search path, and with short limits on locks and statements.
    async fn connect(&self) -> anyhow::Result<Connection> {
        Ok(settle::open(&target(&self.common.database)?.impatient()).await?)
    }
}

pub(super) async fn run(command: AsideCommand) -> Exit {
    match command {
        AsideCommand::List(args) => list(&args).await?,
        AsideCommand::Retry(args) => {
            let target = target(&args.common.database)?.impatient();
            let tried = aside::Tries::new(target).retry_chosen(args.aside()).await?;
            if args.common.json {
                output::json(&tried);
            } else {
                output::line(&format!(
                    "written {}, not needed any more {}, still refused {}",
                    tried.written, tried.gone, tried.refused
                ));
                args.warn_of_unknown(tried.all(), UNKNOWN);
            }
            if tried.refused > 0 {
                return Ok(ExitCode::FAILURE);
            }
        }
        AsideCommand::Drop(args) => {
            let dropped = aside::drop_chosen(&args.connect().await?, args.aside()).await?;
            if args.common.json {
                output::json(&json!({"dropped": dropped}));
            } else {
                output::line(&format!("dropped {dropped}"));
                args.warn_of_unknown(dropped, UNKNOWN);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let filter = Filter {
        inbox: args.inbox.as_deref(),
        kind: args.kind.as_deref(),
        before: args.before,
        limit: args.limit,
    };
    let found = aside::list(&one_connection(target(&args.common.database)?.looking_on()), &filter).await?;
    if args.common.json {
        output::json(&found);
        return Ok(());
    }
    if found.is_empty() {
        output::line("nothing is set aside");
        return Ok(());
    }
    let rows: Vec<[String; 7]> = found
        .iter()
        .map(|a| {
            [
                a.aside_id.to_string(),
                a.kind.clone(),
                a.inbox.clone(),
                a.message_id.map_or_else(|| "-".to_owned(), |id| id.to_string()),
                a.tries.to_string(),
                output::ago(a.since),
                a.reason.clone(),
            ]
        })
        .collect();
    output::table(["NUMBER", "KIND", "INBOX", "MESSAGE", "TRIES", "SINCE", "REASON"], &rows);
    if let Some(last) = found.last().filter(|_| rows.len() as i64 == args.limit) {
        tracing::info!("there may be more: --before {}", last.aside_id);
    }
    Ok(())
}
