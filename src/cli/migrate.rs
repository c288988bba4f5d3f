//! `postbell migrate`.

use std::process::ExitCode;

use serde_json::json;

use super::settings::DatabaseArgs;
use super::{Exit, output, target};
use crate::store::Connection;
use crate::store::migrate::{self, Hold, Plan, Rehearsal};

/// Bring the database's schema to this version
///
/// Makes the broker's own tables in the schema postbell. Tables agent_messages, agent_registry, agent_alerts and
/// agent_metrics are created where they are missing; those that a mesh has already are adopted: every row stays, its
/// pollers keep working, columns and triggers are added, and messages that wait are delivered when their agents connect.
/// A table of that name that is something else is refused before anything is changed.
///
/// First a rehearsal: all of it and then the life of a message (inserted, delivered, acknowledged, failed, retried,
/// dead, redriven) are tried in one transaction that is rolled back, on the tables as they are with their
/// constraints, triggers and policies. If a broker could not work, the command refuses and names the column,
/// constraint or trigger; if only some outcomes would fail, it says which. The rehearsal waits 2 s at most for a
/// table that is in use, and holds the tables for as long as it takes. Everything that your triggers queue in the
/// transaction (pg_net, NOTIFY) is rolled back with it; what they do outside is not.
///
/// Then each migration runs in one transaction; a second run goes on where the first stopped. An index on a table that
/// holds rows is built before, while others write: the build waits for transactions that are open, and nobody waits for
/// the build. The dry run says of each step whom it keeps out of which table, and for how long. A run also mends drift:
/// everything that Postbell needs and that somebody dropped, disabled or changed.
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
    /// List each migration and trigger with its state; change nothing
    #[arg(long, env = "POSTBELL_MIGRATE_STATUS", conflicts_with = "dry_run")]
    status: bool,
    /// Say what would be done, and whether it can be, by the rehearsal alone; change nothing
    #[arg(long, env = "POSTBELL_MIGRATE_DRY_RUN")]
    dry_run: bool,
    /// Leave the rehearsal out: for tables so large that they cannot be held for it
    #[arg(long, env = "POSTBELL_MIGRATE_WITHOUT_REHEARSAL", conflicts_with_all = ["dry_run", "status"])]
    without_rehearsal: bool,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
}

pub(super) async fn run(args: MigrateArgs) -> Exit {
    let target = target(&args.database)?;
    if args.status {
        return status(&Connection::open(&target).await?, args.json).await;
    }
    let plan = match args.dry_run {
        true => migrate::plan(&Connection::open(&target.looking_on()).await?).await?,
        false if args.without_rehearsal => migrate::migrate_with(&target, Rehearsal::Without).await?,
        false => migrate::migrate(&target).await?,
    };
    if args.json {
        let steps: Vec<_> = plan.migrations.iter().chain(&plan.triggers).collect();
        output::json(&json!({
            "dry_run": args.dry_run, "steps": steps, "builds": plan.builds, "holds": plan.holds,
            "adoption": plan.adoption, "deliveries": plan.deliveries, "mends": plan.mends, "left": plan.left, "warnings": plan.warnings, "rehearsed_ms": plan.rehearsed_ms,
        }));
    } else {
        sentences(&plan, args.dry_run).iter().for_each(|sentence| output::line(sentence));
    }
    Ok(if plan.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A line for each thing that was done, or would be.
fn sentences(plan: &Plan, dry_run: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if plan.is_empty() {
        lines.push("nothing to do: the schema is that of this version".to_owned());
    }
    let (applied, installed, mended) = match dry_run {
        true => ("would apply", "would install", "would mend"),
        false => ("applied", "installed", "mended"),
    };
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
    }
    for migration in &plan.migrations {
        let of = |hold: &&Hold| hold.step == *migration;
        let held = plan.holds.iter().filter(of).filter(|hold| hold.is_beforehand);
        lines.extend(held.map(|hold| format!("would {}", hold.sentence)));
        let within = plan.holds.iter().filter(of).find(|hold| !hold.is_beforehand);
        let within = within.map_or(String::new(), |hold| format!(": {}", hold.sentence));
        lines.push(format!("{applied} migration {migration}{within}"));
    }
    if !dry_run {
        lines.extend(plan.builds.iter().map(|index| format!("built {index} while others wrote")));
    }
    lines.extend(plan.mends.iter().map(|what| format!("{mended}: {what}")));
    lines.extend(plan.triggers.iter().map(|t| format!("{installed} trigger {t}")));
    let triggers = plan.holds.iter().filter(|hold| hold.step == "triggers");
    lines.extend(triggers.map(|hold| format!("installing the triggers: {}", hold.sentence)));
    if let Some(deliveries) = plan.deliveries.filter(|n| *n > 0) {
        let made = if dry_run { "would make" } else { "made" };
        lines.push(format!("{made} {deliveries} deliveries for messages that waited without the trigger"));
    }
    lines.extend(plan.left.iter().map(|what| format!("not mended: {what}")));
    if let (true, Some(ms)) = (dry_run, plan.rehearsed_ms) {
        lines.push(match plan.is_empty() {
            true => format!("tried the life of a message in a transaction that was rolled back: {ms} ms"),
            false => format!(
                "tried it, with the life of a message, in a transaction that was rolled back: {ms} ms, in which others \
                 waited for the tables"
            ),
        });
    }
    lines.extend(plan.warnings.iter().map(|w| format!("warning: {w}")));
    lines
}

async fn status(connection: &Connection, as_json: bool) -> Exit {
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
