//! `postbell dead`: deliveries that were given up.

pub(super) mod chosen;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::agent::one_connection;
use super::output::plain;
use super::{Exit, output, target};
use crate::store::Pool;
use crate::store::dead::{self, Chosen, DeadMessage, Done, Filter, Partly, Refusal};
use chosen::{ChosenArgs, CommonArgs};

/// At most so many characters of a reason are shown in the table.
const REASON_CHARS_MAX: usize = 60;
/// At most so many refused dead letters are named one by one; JSON lists all.
const REFUSED_MAX: usize = 20;

/// The subcommands; the help of `dead` itself is in [`super::Command`].
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
  postbell dead redrive --inbox validation-agent

Exit status: 0 all are ready; 1 some stay dead, for the reasons that are told; 64 wrong usage.")]
    Redrive(ChosenArgs),
    /// Throw dead letters away; their messages stay failed until retention removes them
    #[command(after_help = "Examples:
  postbell dead purge 1234
  postbell dead purge --inbox old-agent

Exit status: 0 all are gone; 1 some stay, for the reasons that are told; 64 wrong usage.")]
    Purge(ChosenArgs),
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

impl ChosenArgs {
    fn dead(&self) -> Chosen<'_> {
        match (&self.inbox, self.ids.as_slice()) {
            (Some(inbox), _) => Chosen::Inbox(inbox),
            (None, []) => Chosen::All,
            (None, ids) => Chosen::Ids(ids),
        }
    }
}

/// Prints how many dead letters were changed and which stay dead. The exit status is 1 if any stays dead.
fn report(args: &ChosenArgs, what: &str, done: Result<i64, Partly>) -> Exit {
    let (done, error, is_whole) = match done {
        Ok(count) => (Done { count, looked: count, ..Done::default() }, None, true),
        Err(Partly { done, error }) => (done, error, false),
    };
    if args.common.json {
        let mut said = Map::from_iter([(what.to_owned(), json!(done.count))]);
        if !is_whole {
            let refused =
                done.refused.iter().map(|r| json!({"delivery_id": r.delivery_id, "reason": r.reason}));
            said.insert("refused".to_owned(), Value::Array(refused.collect()));
            said.insert("held".to_owned(), json!(done.held));
        }
        output::json(&said);
    } else {
        output::line(&format!("{what} {}", done.count));
        for Refusal { delivery_id, reason } in done.refused.iter().take(REFUSED_MAX) {
            tracing::warn!("{delivery_id} stays dead: {reason}");
        }
        if let Some(more) = done.refused.len().checked_sub(REFUSED_MAX).filter(|more| *more > 0) {
            tracing::warn!("{more} more stay dead for such reasons: --json names each");
        }
        if done.held > 0 {
            tracing::warn!("{} are held by another transaction: try again when it has ended", done.held);
        }
        if error.is_none() {
            let known = u64::try_from(done.looked).unwrap_or(0);
            args.warn_of_unknown(known, "no dead letters: `postbell dead list`");
        }
    }
    match error {
        Some(error) => Err(error.into()),
        None if is_whole => Ok(ExitCode::SUCCESS),
        None => Ok(ExitCode::FAILURE),
    }
}

pub(super) async fn run(command: DeadCommand) -> Exit {
    match command {
        DeadCommand::List(args) => list(&args).await?,
        DeadCommand::Show(args) => {
            let found = dead::show(&looking_on(&args.common)?, &args.id).await?;
            match args.common.json {
                true => output::json(&found),
                false => found.iter().for_each(show),
            }
        }
        DeadCommand::Redrive(args) => {
            return report(&args, "redriven", dead::redrive(&pool(&args.common)?, &args.dead()).await);
        }
        DeadCommand::Purge(args) => {
            return report(&args, "purged", dead::purge(&pool(&args.common)?, &args.dead()).await);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn pool(args: &CommonArgs) -> anyhow::Result<Pool> {
    Ok(one_connection(target(&args.database)?))
}

fn looking_on(args: &CommonArgs) -> anyhow::Result<Pool> {
    Ok(one_connection(target(&args.database)?.looking_on()))
}

async fn list(args: &ListArgs) -> anyhow::Result<()> {
    let filter = Filter {
        inbox: args.inbox.as_deref(),
        reason: args.reason.as_deref(),
        before: args.before,
        limit: args.limit,
    };
    let letters = dead::list(&looking_on(&args.common)?, &filter).await?;
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

/// The first line of a reason that is not blank, cut: a reason may be a whole traceback.
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
