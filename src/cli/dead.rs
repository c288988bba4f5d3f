//! `postbell dead`: deliveries that were given up.

use std::process::ExitCode;

use clap::{ArgGroup, Args, Subcommand};
use serde_json::json;

use super::agent::one_connection;
use super::output::plain;
use super::settings::DatabaseArgs;
use super::{Outcome, output, target};
use crate::store::Pool;
use crate::store::dead::{self, Chosen, DeadMessage, Filter};

/// Characters of a reason that the table shows.
const REASON_CHARS_MAX: usize = 60;

/// What can be done with dead letters; its help is in [`super::Command`].
#[derive(Subcommand)]
pub(super) enum DeadCommand {
    /// List dead letters, the newest first
    #[command(after_help = "Examples:
  postbell dead list --inbox validation-agent
  postbell dead list --reason timeout --json | jq -r '.[].delivery_id'
  postbell dead list --before 1234      # the next page: the last number of the one before")]
    List(ListArgs),
    /// Show a dead letter with its message, by its number or by the message's id
    Show(ShowArgs),
    /// Make dead letters ready again, with all their attempts
    #[command(after_help = "Examples:
  postbell dead redrive 1234 1240
  postbell dead redrive --inbox validation-agent")]
    Redrive(ChosenArgs),
    /// Throw dead letters away; their messages stay failed until retention removes them
    #[command(after_help = "Examples:
  postbell dead purge 1234
  postbell dead purge --inbox old-agent")]
    Purge(ChosenArgs),
}

#[derive(Args)]
pub(super) struct CommonArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Only of this inbox
    #[arg(long, env = "POSTBELL_INBOX")]
    inbox: Option<String>,
    /// Only with this text in the reason
    #[arg(long, env = "POSTBELL_REASON")]
    reason: Option<String>,
    /// How many at most
    #[arg(long, env = "POSTBELL_LIMIT", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
    limit: i64,
    /// Only older deliveries than this one
    #[arg(long, env = "POSTBELL_BEFORE", value_name = "NUMBER")]
    before: Option<i64>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args)]
pub(super) struct ShowArgs {
    /// The delivery's number, or the message's id
    id: String,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Args)]
#[command(group = ArgGroup::new("chosen").required(true).args(["ids", "inbox", "all"]))]
pub(super) struct ChosenArgs {
    /// The deliveries' numbers
    #[arg(value_name = "NUMBER")]
    ids: Vec<i64>,
    /// Every dead letter of this inbox
    #[arg(long, env = "POSTBELL_INBOX")]
    inbox: Option<String>,
    /// Every dead letter there is
    #[arg(long, env = "POSTBELL_ALL")]
    all: bool,
    #[command(flatten)]
    common: CommonArgs,
}

impl ChosenArgs {
    fn chosen(&self) -> Chosen<'_> {
        match (&self.inbox, self.ids.as_slice()) {
            (Some(inbox), _) => Chosen::Inbox(inbox),
            (None, []) => Chosen::All,
            (None, ids) => Chosen::Ids(ids),
        }
    }

    /// One that is not dead (any more) is not an error of the others, but whoever named it should know.
    fn report(&self, what: &str, count: i64) {
        if self.common.json {
            return output::json(&json!({what: count}));
        }
        output::line(&format!("{what} {count}"));
        let asked = i64::try_from(self.ids.len()).unwrap_or(i64::MAX);
        if self.inbox.is_none() && count < asked {
            tracing::warn!(
                "{} of the {asked} named are no dead letters: `postbell dead list`",
                asked - count
            );
        }
    }
}

pub(super) async fn run(command: DeadCommand) -> Outcome {
    match command {
        DeadCommand::List(args) => list(&args).await?,
        DeadCommand::Show(args) => {
            let found = dead::show(&pool(&args.common)?, &args.id).await?;
            match args.common.json {
                true => output::json(&found),
                false => found.iter().for_each(show),
            }
        }
        DeadCommand::Redrive(args) => {
            args.report("redriven", dead::redrive(&pool(&args.common)?, &args.chosen()).await?);
        }
        DeadCommand::Purge(args) => {
            args.report("purged", dead::purge(&pool(&args.common)?, &args.chosen()).await?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn pool(args: &CommonArgs) -> anyhow::Result<Pool> {
    Ok(one_connection(target(&args.database)?))
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let filter = Filter {
        inbox: args.inbox.as_deref(),
        reason: args.reason.as_deref(),
        before: args.before,
        limit: args.limit,
    };
    let letters = dead::list(&pool(&args.common)?, &filter).await?;
    if args.common.json {
        output::json(&letters);
        return Ok(());
    }
    if letters.is_empty() {
        output::line("no dead letters");
        return Ok(());
    }
    let rows: Vec<[String; 7]> = letters
        .iter()
        .map(|l| {
            [
                l.delivery_id.to_string(),
                l.inbox.clone(),
                l.from_agent_id.clone(),
                l.message_type.clone(),
                l.attempt.to_string(),
                output::ago(l.dead_at),
                one_line(l.reason.as_deref().unwrap_or_default()),
            ]
        })
        .collect();
    output::table(["NUMBER", "INBOX", "FROM", "TYPE", "ATTEMPTS", "SINCE", "REASON"], &rows);
    if let Some(last) = letters.last().filter(|_| rows.len() as i64 == args.limit) {
        tracing::info!("there may be more: --before {}", last.delivery_id);
    }
    Ok(())
}

/// A reason may be a whole traceback.
fn one_line(reason: &str) -> String {
    let line = reason.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
    let mut text: String = line.chars().take(REASON_CHARS_MAX).collect();
    if reason.chars().count() > text.chars().count() {
        text.push('…');
    }
    text
}

fn show(dead: &DeadMessage) {
    let letter = &dead.letter;
    let ago = |at| format!("{} ago", output::ago(at));
    output::field("number", &letter.delivery_id.to_string());
    output::field("message", &letter.message_id.to_string());
    output::field("inbox", &letter.inbox);
    output::field("from", &letter.from_agent_id);
    output::field("type", &format!("{}, priority {}", letter.message_type, letter.priority));
    output::field("created", &ago(letter.created_at));
    output::field("dead", &format!("{}, after {} failed attempts", ago(letter.dead_at), letter.attempt));
    output::field("reason", letter.reason.as_deref().unwrap_or("none given"));
    for (name, value) in [("correlation", &dead.correlation_id), ("dedupe key", &dead.dedupe_key)] {
        if let Some(value) = value {
            output::field(name, value);
        }
    }
    if let Some(headers) = &dead.headers {
        output::field("headers", &plain::json(&headers.to_string()));
    }
    match &dead.left_out {
        None => output::field("payload", &plain::json(&dead.payload.to_string())),
        Some(why) => output::field("payload", &format!("not shown: {why}")),
    }
    output::line("");
}
