//! `postbell doctor`.

use std::process::ExitCode;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

use super::health::{ask, parse};
use super::settings::{DatabaseArgs, HttpArgs};
use super::{Exit, output, target};
use crate::store::doctor::{Check, Level, examine};

/// How long a broker on this machine may take to answer; there need not be one.
const BROKER_WAIT: Duration = Duration::from_secs(1);

/// Check whether a broker can work here, and say what to do where it cannot
///
/// ✓ is as it should be, ! works but deserves a look, ✗ must be mended. The command changes nothing: it makes
/// one LISTEN/NOTIFY round trip on a channel of its own, and tries the life of a message, an agent and an alert in a
/// transaction that is rolled back. Your triggers run in that transaction, which waits at most 2 s for a lock.
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 no check failed; 1 some did; 64 wrong usage.")]
pub(super) struct DoctorArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    http: HttpArgs,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
}

pub(super) async fn run(args: DoctorArgs) -> Exit {
    let mut checks = examine(&target(&args.database)?).await;
    checks.extend(status_page(&args.http).await);
    if args.json {
        output::json(&checks);
    } else {
        let colourful = output::is_colourful(&std::io::stdout());
        checks.iter().for_each(|check| show(check, colourful));
    }
    let failed = checks.iter().any(|c| c.level == Level::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// A warning if the broker on this machine is asked through a proxy here, whose visitors then need no token. `None`
/// if not, or if no broker answers.
async fn status_page(args: &HttpArgs) -> Option<Check> {
    #[derive(Deserialize)]
    struct Me {
        #[serde(default)]
        behind_proxy: bool,
    }
    let address = crate::broker::config::http(|env| args.value(env)).ok()?;
    let answer = timeout(BROKER_WAIT, ask(address, "/api/me")).await.ok()?.ok()?;
    let me: Me = serde_json::from_str(parse(&answer)?.1).ok()?;
    me.behind_proxy.then(|| Check {
        check: "status page",
        level: Level::Warn,
        sentence: format!(
            "the broker at {address} was asked through a proxy on this machine: whom that passes on without a trace may \
             look at the mesh without a token. Set POSTBELL_STATUS=token"
        ),
    })
}

fn show(check: &Check, colourful: bool) {
    let (mark, colour) = match check.level {
        Level::Ok => ("✓", 32),
        Level::Warn => ("!", 33),
        Level::Fail => ("✗", 31),
    };
    let text = format!("{:<16} {}", check.check, check.sentence);
    match colourful {
        true => output::coloured(colour, mark, &text),
        false => output::line(&format!("{mark} {text}")),
    }
}
