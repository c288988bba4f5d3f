//! The load test of Postbell: measures the broker and the floors beneath it in one run on one database.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "its rows are its own: where one is not as expected, stopping is right; and what it measures is real time"
)]

mod agents;
mod alone;
mod bench;
mod broker;
mod compare;
mod latency;
mod ledger;
mod load;
mod machine;
mod page;
mod report;
mod run;
#[path = "../scenarios/mod.rs"]
mod scenarios;
mod slow_flush;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use report::Report;
use stage::Wanted;

/// The load test of Postbell: measures the broker and the floors beneath it, in one run on one database.
#[derive(Parser)]
#[command(version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run scenarios and write report.json and report.html
    Run(RunArgs),
    /// Say what each scenario asks
    List,
    /// Print what changed from one report to another, with the noise
    Compare {
        /// The report.json of before
        before: PathBuf,
        /// The report.json of after
        after: PathBuf,
    },
}

#[derive(Args)]
struct RunArgs {
    /// The scenarios to run, by name; by default all but those that `list` marks
    scenarios: Vec<String>,
    /// Small sizes: for correctness, not for time
    #[arg(long)]
    quick: bool,
    /// Use this server instead of a private one; its role must be allowed to create databases
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Use this broker program instead of this build's
    #[arg(long, value_name = "PROGRAM")]
    broker: Option<PathBuf>,
    /// Delay each flush of the write-ahead log by so many milliseconds, as a disk of a cloud would (Linux)
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    slow_flush: f64,
    /// Where report.json and report.html go
    #[arg(long, value_name = "FOLDER", default_value = "target/loadtest")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let first = words.nth(1);
    let is_command = |command: &str| first.as_ref().is_some_and(|word| word == command);
    if is_command(stage::BROKER_COMMAND) {
        // The broker is this same program in a process of its own.
        return postbell::cli::run_with(std::iter::once("postbell".into()).chain(words));
    }
    if is_command(alone::AGENT_COMMAND) {
        return alone::main();
    }
    match carry_out(Cli::parse().command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("loadtest: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Run(args) => {
            let wanted = Wanted {
                database_url: args.database_url,
                broker: args.broker,
                slow_flush_ms: args.slow_flush,
            };
            run::run(&args.scenarios, args.quick, &wanted, &args.out)
        }
        Command::List => {
            for scenario in scenarios::ALL {
                say(&format!("{:<14} {}", scenario.name, scenario.about));
            }
            for scenario in scenarios::BY_NAME {
                say(&format!("{:<14} (only by its name) {}", scenario.name, scenario.about));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Compare { before, after } => {
            let text = compare::text(&read(&before)?, &read(&after)?)?;
            say(text.trim_end());
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn read(path: &PathBuf) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no report of this load test", path.display()))
}

/// Prints a line of the result to standard output.
fn say(line: &str) {
    use std::io::Write;
    // A reader that went away needs no line.
    let _ = writeln!(std::io::stdout(), "{line}");
}
