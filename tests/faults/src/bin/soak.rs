//! `soak`: the fault campaign for as long as one likes. The campaign's brokers and agents are this same program, by
//! hidden commands.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use faults::agent::{self, AgentArgs};
use faults::campaign::{self, Wanted};
use faults::{agents, broker};

/// How long before the end of the load an outage ends: in this time the waiting messages must be delivered.
const OUTAGE_ENDS: Duration = Duration::from_secs(60);

/// Breaks Postgres, brokers, agents and the links between them under load, and counts how every message ended.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    /// How many hours
    #[arg(long, default_value_t = 0.0)]
    hours: f64,
    /// How many minutes more
    #[arg(long, default_value_t = 0.0)]
    minutes: f64,
    /// The same seed breaks the same things at the same times; by default the seed is random
    #[arg(long)]
    seed: Option<u64>,
    /// Messages a second
    #[arg(long, default_value_t = 300.0)]
    rate: f64,
    /// Only faults of the plan whose name contains this; may be given more than once
    #[arg(long)]
    only: Vec<String>,
    /// Break nothing but the database: it is away from the beginning until a minute before the end
    #[arg(long, conflicts_with = "only")]
    outage: bool,
    /// Tell how long deliveries took, but do not judge it: for a machine that is busy
    #[arg(long)]
    untimed: bool,
    /// Where the report and all logs go
    #[arg(long, value_name = "FOLDER", default_value = "target/faults")]
    out: PathBuf,
}

/// The hidden form of the command line: an agent.
#[derive(Parser)]
struct AgentCli {
    #[command(flatten)]
    args: AgentArgs,
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    match words.nth(1).as_ref().and_then(|word| word.to_str()) {
        Some(broker::COMMAND) => postbell::cli::run_with(std::iter::once("postbell".into()).chain(words)),
        Some(agents::COMMAND) => {
            agent::main(AgentCli::parse_from(std::iter::once("agent".into()).chain(words)).args)
        }
        _ => match carry_out(Cli::parse()) {
            Ok(code) => code,
            Err(e) => {
                eprintln!("soak: {e:#}");
                ExitCode::FAILURE
            }
        },
    }
}

fn carry_out(cli: Cli) -> anyhow::Result<ExitCode> {
    let lasting = Duration::from_secs_f64(cli.hours * 3_600.0 + cli.minutes * 60.0);
    anyhow::ensure!(!lasting.is_zero(), "say how long: --hours or --minutes");
    let wanted = Wanted {
        program: std::env::current_exe().context("this program cannot be found again")?,
        seed: cli.seed.unwrap_or_else(|| rand::random::<u32>().into()),
        lasting,
        rate: cli.rate,
        only: cli.only,
        outage_ends: cli.outage.then_some(OUTAGE_ENDS),
        timed: !cli.untimed,
        out: cli.out,
        tell: say,
    };
    say(&format!("seed {}, {} s, {} messages/s", wanted.seed, lasting.as_secs(), wanted.rate));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        tokio::select! {
            report = campaign::run(&wanted) => report,
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })?;
    report.save(&wanted.out)?;
    say(&report.text());
    let failed = !report.failures().is_empty();
    if failed {
        say(&format!("logs are in {}; the same again: {}", wanted.out.display(), report.replay()));
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prints a line of the result to standard output.
fn say(line: &str) {
    use std::io::Write;
    // A reader that went away needs no line.
    let _ = writeln!(std::io::stdout(), "{line}");
}
