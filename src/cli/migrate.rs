//! `postbell migrate`.

use std::process::ExitCode;

use serde_json::json;

use super::settings::DatabaseArgs;
use super::{Outcome, output, target};
use crate::postgres::Connection;
use crate::postgres::migrate::{migrate, schema_state};

/// Creates the broker's schema and adopts or creates agent_messages and agent_registry.
///
/// Tables that a mesh has already keep every row and its pollers keep working; columns and a trigger are added.
/// Messages that wait are delivered to their agents when they connect. A table of that name that is something else
/// is refused and not touched.
#[derive(clap::Args)]
pub(super) struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Show what is applied and what is missing; change nothing
    #[arg(long, env = "POSTBELL_MIGRATE_STATUS", conflicts_with = "dry_run")]
    status: bool,
    /// Say what would be applied, and whether it can be; change nothing
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
    let steps = migrate(&target, args.dry_run).await?;
    if args.json {
        output::json(&json!({"dry_run": args.dry_run, "steps": steps}));
    } else if steps.is_empty() {
        output::line("nothing to do: the schema is that of this version");
    } else {
        let verb = if args.dry_run { "would apply" } else { "applied" };
        steps.iter().for_each(|step| output::line(&format!("{verb} {step}")));
    }
    Ok(ExitCode::SUCCESS)
}

async fn status(connection: &Connection, as_json: bool) -> Outcome {
    let state = schema_state(connection).await?;
    let steps: Vec<_> = state.migrations.iter().chain(&state.triggers).collect();
    if as_json {
        let steps: Vec<_> = steps.iter().map(|s| json!({"name": s.name, "applied": s.applied})).collect();
        output::json(&json!({"current": state.is_current(), "refusal": state.refusal(), "steps": steps}));
    } else {
        for step in steps {
            output::line(&format!("{} {}", if step.applied { "applied" } else { "missing" }, step.name));
        }
        output::line(state.refusal().as_deref().unwrap_or("the schema is that of this version"));
    }
    Ok(if state.is_current() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
