//! `postbell migrate`.

use std::process::ExitCode;

use serde_json::json;

use super::settings::DatabaseArgs;
use super::{Outcome, output, target};
use crate::postgres::Connection;
use crate::postgres::migrate::{self, Plan};

/// Bring the database's schema to this version
///
/// Makes the broker's own tables in the schema postbell. Tables agent_messages, agent_registry, agent_alerts and
/// agent_metrics are created where they are missing; those that a mesh has already are adopted: every row stays, its
/// pollers keep working, columns and triggers are added, and messages that wait are delivered when their agents connect.
/// A table of that name that is something else is refused before anything is changed.
///
/// Each migration is one transaction. Running it again mends what has drifted since: what somebody dropped, disabled or changed
/// of what Postbell needs; where nothing has, it does nothing.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  postbell migrate --dry-run                      # what would be done, and whether it can be
  postbell migrate
  POSTBELL_SCHEMA=mesh postbell migrate           # for tables in another schema than public
  postbell migrate --status --json | jq .steps

Exit status: 0 done; 1 refused or failed, or --status found something to do; 64 wrong usage.")]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// List migrations and triggers and how each is; change nothing
    #[arg(long, env = "POSTBELL_MIGRATE_STATUS", conflicts_with = "dry_run")]
    status: bool,
    /// Say what would be done, and whether it can be; change nothing
    #[arg(long, env = "POSTBELL_MIGRATE_DRY_RUN")]
    dry_run: bool,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
}

pub(super) async fn run(args: MigrateArgs) -> Outcome {
    let target = target(&args.database)?;
    if args.status {
        return status(&Connection::open(&target).await?, args.json).await;
    }
    let plan = match args.dry_run {
        true => migrate::plan(&Connection::open(&target).await?).await?,
        false => migrate::migrate(&target).await?,
    };
    if args.json {
        let steps: Vec<_> = plan.migrations.iter().chain(&plan.triggers).collect();
        output::json(&json!({
            "dry_run": args.dry_run, "steps": steps, "adoption": plan.adoption, "mends": plan.mends,
            "left": plan.left, "deliveries": plan.deliveries,
        }));
    } else {
        sentences(&plan, args.dry_run).iter().for_each(|sentence| output::line(sentence));
    }
    Ok(if plan.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What was done, or would be, a line each.
fn sentences(plan: &Plan, dry_run: bool) -> Vec<String> {
    if plan.is_empty() {
        return vec!["nothing to do: the schema is that of this version".to_owned()];
    }
    let (applied, installed, mended) = match dry_run {
        true => ("would apply", "would install", "would mend"),
        false => ("applied", "installed", "mended"),
    };
    let mut lines = Vec::new();
    if let Some(adoption) = &plan.adoption {
        let (adopted, created) =
            if dry_run { ("would adopt", "would create") } else { ("adopted", "created") };
        lines.extend(adoption.adopts.iter().map(|t| format!("{adopted} {t}: every row stays as it is")));
        lines.extend(adoption.creates.iter().map(|t| format!("{created} {t}")));
        if adoption.taken > 0 {
            lines.push(format!(
                "left alone: {} messages that a poller marked delivered and never finished; set their status to \
                 pending before you migrate if they should be sent again",
                adoption.taken
            ));
        }
        if dry_run && adoption.waiting > 0 {
            lines.push(format!("would make deliveries for {} messages that wait", adoption.waiting));
        }
    }
    lines.extend(plan.migrations.iter().map(|m| format!("{applied} migration {m}")));
    lines.extend(plan.mends.iter().map(|what| format!("{mended}: {what}")));
    lines.extend(plan.triggers.iter().map(|t| format!("{installed} trigger {t}")));
    if let Some(deliveries) = plan.deliveries.filter(|n| *n > 0) {
        lines.push(format!("made {deliveries} deliveries for messages that waited without the trigger"));
    }
    lines.extend(plan.left.iter().map(|what| format!("not mended: {what}")));
    lines
}

async fn status(connection: &Connection, as_json: bool) -> Outcome {
    let status = migrate::status(connection).await?;
    let refusal = status.state.refusal();
    if as_json {
        output::json(&json!({"current": refusal.is_none(), "refusal": refusal, "steps": status.lines}));
    } else {
        let rows: Vec<_> = status
            .lines
            .iter()
            .map(|l| {
                let ago = l.applied_at.map(|at| format!("{} ago", output::ago(Some(at))));
                [
                    l.kind.to_owned(),
                    l.name.clone(),
                    l.state.to_owned(),
                    ago.unwrap_or_default(),
                    l.by.clone().unwrap_or_default(),
                ]
            })
            .collect();
        output::table(["KIND", "NAME", "STATE", "WHEN", "BY"], &rows);
        output::line(refusal.as_deref().unwrap_or("the schema is that of this version"));
    }
    Ok(if refusal.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
