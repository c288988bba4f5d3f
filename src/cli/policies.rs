//! `postbell policies`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::json;

use super::settings::DatabaseArgs;
use super::{Exit, output, target};
use crate::store::doctor::open;
use crate::store::migrate::policies::{self, Applied, POLICIES, PolicyFile, ROLES};

/// The subcommands; the help of `policies` itself is in [`super::Command`].
#[derive(Subcommand)]
pub(super) enum PoliciesCommand {
    /// Take every right from anon, and give authenticated what an agent needs and no more
    ///
    /// Rights on agent_messages and agent_registry that these roles had before are revoked: a poller that comes through
    /// the API needs a token with the claim app_metadata.agent_id from then on. Policies that were there before stay,
    /// and can open no more than these. One transaction; running it again changes nothing.
    #[command(
        after_help = "Exit status: 0 applied; 1 refused or failed, and nothing was changed; 64 wrong usage."
    )]
    Apply(ApplyArgs),
    /// Print the SQL, for psql or the editor of a dashboard
    Show,
}

#[derive(Args)]
pub(super) struct ApplyArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Create anon, authenticated and service_role where they are missing; needs a superuser
    #[arg(long, env = "POSTBELL_CREATE_ROLES")]
    create_roles: bool,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
}

pub(super) async fn run(command: PoliciesCommand) -> Exit {
    match command {
        PoliciesCommand::Show => show(),
        PoliciesCommand::Apply(args) => apply(args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show() {
    output::line("begin;");
    // The file of the roles is left out: `apply --create-roles` makes them.
    for file in POLICIES {
        output::lines(&format!("\n-- {}.sql\n{}", file.name, file.sql.trim_end()));
    }
    output::lines("\ncommit;");
}

async fn apply(args: ApplyArgs) -> anyhow::Result<()> {
    let target = target(&args.database)?;
    let applied = policies::apply(&target, args.create_roles).await?;
    // This role cannot revoke rights that another role granted, and a view passes by policies.
    let open = open::still_open(&target).await?;
    if args.json {
        output::json(&json!({"applied": applied, "open": open}));
        return Ok(());
    }
    sentences(&applied).iter().for_each(|sentence| output::line(sentence));
    open.iter().for_each(|check| output::line(&format!("still open: {}", check.sentence)));
    Ok(())
}

fn sentences(applied: &Applied) -> Vec<String> {
    let named = |f: &&PolicyFile| applied.files.contains(&f.name);
    let files = [ROLES].into_iter().chain(POLICIES.iter().copied()).collect::<Vec<_>>();
    let mut lines: Vec<_> =
        files.iter().filter(named).map(|f| format!("applied {}: {}", f.name, f.does)).collect();
    if !applied.created_roles.is_empty() {
        lines.push(format!("created {}", applied.created_roles.join(", ")));
    }
    if !applied.foreign.is_empty() {
        lines.push(format!(
            "left alone, and narrowed to the above for anon and authenticated: {}",
            applied.foreign.join(", ")
        ));
    }
    if !applied.shut_out.is_empty() {
        lines.push(format!(
            "row level security was off and is on: {} see no row now; give each a policy of its own, or `alter role … \
             bypassrls`",
            applied.shut_out.join(", ")
        ));
    }
    lines
}
