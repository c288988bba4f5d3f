//! A run: the stage, the scenarios one after another, the report.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::Bench;
use crate::report::{FORMAT, Figure, Report, Scenario, Versions};
use crate::scenarios::{self, Spec};
use crate::stage::{Stage, Wanted};
use crate::{machine, page, say};

/// Runs these scenarios, or all if none is named. The exit status is a failure if a message was lost.
pub(crate) fn run(names: &[String], quick: bool, wanted: &Wanted, out: &Path) -> anyhow::Result<ExitCode> {
    let specs = choose(names)?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    // Ten thousand agents are as many sockets, here as in the broker.
    postbell::base::open_files::raise_bound();
    let stage = Stage::set(wanted)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ran = runtime.block_on(run_all(&specs, quick, wanted, &stage));
    drop(runtime);
    let report = ran?;
    stage.strike()?;
    write(&report, out)?;
    Ok(verdict(&report))
}

fn choose(names: &[String]) -> anyhow::Result<Vec<&'static Spec>> {
    if names.is_empty() {
        return Ok(scenarios::ALL.iter().collect());
    }
    let all = || scenarios::ALL.iter().chain(scenarios::BY_NAME);
    let find = |name: &String| {
        all().find(|spec| spec.name == name).with_context(|| {
            let known: Vec<_> = all().map(|spec| spec.name).collect();
            format!("there is no scenario {name:?}: choose among {}", known.join(", "))
        })
    };
    names.iter().map(find).collect()
}

async fn run_all(specs: &[&Spec], quick: bool, wanted: &Wanted, stage: &Stage) -> anyhow::Result<Report> {
    let (machine, began) = (machine::machine(), Instant::now());
    let started_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let mut ran = Vec::new();
    for (n, spec) in specs.iter().enumerate() {
        let progress = bar(&format!("{}/{} {}", n + 1, specs.len(), spec.name));
        let scenario = one(spec, quick, wanted, stage, &progress).await;
        progress.finish_and_clear();
        let scenario = scenario.with_context(|| format!("scenario {}", spec.name))?;
        summarize(&scenario, quick);
        ran.push(scenario);
    }
    let commit = std::process::Command::new("git").args(["describe", "--always", "--dirty"]).output();
    let commit = commit.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
    Ok(Report {
        format: FORMAT,
        started_at,
        seconds: began.elapsed().as_secs_f64(),
        quick,
        slow_flush_ms: wanted.slow_flush_ms,
        machine,
        versions: Versions {
            postbell: env!("CARGO_PKG_VERSION").to_owned(),
            commit,
            postgres: stage.server_version().await?,
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        },
        settings: stage.settings().await?.into_iter().collect(),
        scenarios: ran,
    })
}

async fn one(
    spec: &Spec,
    quick: bool,
    wanted: &Wanted,
    stage: &Stage,
    progress: &ProgressBar,
) -> anyhow::Result<Scenario> {
    let began = Instant::now();
    let database = stage.database().await?;
    let bench = Bench {
        stage,
        database: &database,
        quick,
        slow_flush_ms: wanted.slow_flush_ms,
        progress: progress.clone(),
    };
    let found = (spec.run)(&bench).await;
    // The database is removed even after a failure: the server may be somebody's.
    let removed = database.remove().await;
    let found = found?;
    removed?;
    Ok(found.into_scenario(spec.name, spec.about, spec.method, began.elapsed().as_secs_f64()))
}

/// A progress bar on standard error, drawn only if that is a terminal.
fn bar(name: &str) -> ProgressBar {
    let bar = ProgressBar::new(1);
    let style = ProgressStyle::with_template("{prefix:<20} {bar:24} {elapsed_precise} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn summarize(scenario: &Scenario, quick: bool) {
    let count = scenario.ledger;
    say(&format!(
        "{:<14} {:>6.1} s   {} of {} received, {} lost, {} duplicated",
        scenario.name, scenario.seconds, count.received, count.sent, count.lost, count.duplicated
    ));
    if !quick {
        say_numbers(scenario);
    }
    for note in &scenario.notes {
        say(&format!("    note: {note}"));
    }
}

fn say_numbers(scenario: &Scenario) {
    for figure in &scenario.figures {
        let (sign, mark) =
            (if figure.at_least { '≥' } else { '≤' }, if figure.is_met() { "ok" } else { "MISSED" });
        let Figure { asked, value, limit, unit, .. } = figure;
        say(&format!("    {mark:<6} {value:>9.3} {sign} {limit:<9.3} {unit:<6} {asked}"));
    }
    // Where nothing is to be reached, the numbers themselves are the answer.
    let measures = if scenario.figures.is_empty() { &scenario.measures[..] } else { &[] };
    for measure in measures {
        say(&format!("    {:>12.3} {:<6} {}", measure.median(), measure.unit, measure.name));
    }
}

fn write(report: &Report, out: &Path) -> anyhow::Result<()> {
    let (json, html) = (out.join("report.json"), out.join("report.html"));
    let put = |path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    put(&json, serde_json::to_string_pretty(report)?)?;
    put(&html, page::html(report))?;
    say(&format!("wrote {} and {}", json.display(), html.display()));
    Ok(())
}

fn verdict(report: &Report) -> ExitCode {
    let lost: u64 = report.scenarios.iter().map(|s| s.ledger.lost).sum();
    if lost > 0 {
        say(&format!("FAILED: {lost} messages were lost"));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
