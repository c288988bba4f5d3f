//! `postbell doctor`.

use std::process::ExitCode;

use super::settings::DatabaseArgs;
use super::{Outcome, output, target};
use crate::postgres::doctor::{Check, Level, examine};

/// Check whether a broker can work here, and say what to do where it cannot
///
/// ✓ is as it should be, ! works but deserves a look, ✗ must be mended. It changes nothing; it makes one LISTEN/NOTIFY
/// round trip on a channel of its own, and tries the life of a message, an agent and an alert in a transaction that is
/// rolled back and waits 2 s at most for a lock: your triggers run in it.
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 no check failed; 1 some did; 64 wrong usage.")]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
}

pub(super) async fn run(args: DoctorArgs) -> Outcome {
    let checks = examine(&target(&args.database)?).await;
    if args.json {
        output::json(&checks);
    } else {
        let colourful = output::is_colourful(&std::io::stdout());
        checks.iter().for_each(|check| output::line(&line(check, colourful)));
    }
    let failed = checks.iter().any(|c| c.level == Level::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(check: &Check, colourful: bool) -> String {
    let (mark, colour) = match check.level {
        Level::Ok => ("✓", 32),
        Level::Warn => ("!", 33),
        Level::Fail => ("✗", 31),
    };
    let mark = if colourful { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark.to_owned() };
    format!("{mark} {:<16} {}", check.check, check.sentence)
}
