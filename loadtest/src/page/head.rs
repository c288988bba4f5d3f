//! The page's beginning: what ran, when and where; what weakens the results; and how the run went.

use super::figures::{self, Outcome};
use super::text::{anchor, count, duration, escape, moment, number};
use super::times_count;
use crate::report::Report;

/// A load average above this share of the cores is likely to show in the figures.
const LOAD_QUIET: f64 = 0.5;

/// The run: what ran, when, on which machine.
pub(crate) fn headline(report: &Report) -> String {
    let (machine, versions) = (&report.machine, &report.versions);
    let scenarios = match report.scenarios.len() {
        1 => "1 scenario".to_owned(),
        n => format!("{n} scenarios"),
    };
    let flush = match report.slow_flush_ms {
        0.0 => "as the disk is".to_owned(),
        ms => format!("delayed by {} ms", number(ms)),
    };
    let facts = [
        ("Processor", machine.cpu.clone()),
        ("Cores", machine.cores.to_string()),
        ("Memory", memory(machine.memory_mb)),
        ("System", machine.system.clone()),
        ("Load at the start", format!("{:.2}", machine.load_average)),
        ("Postbell", versions.postbell.clone()),
        ("Commit", if versions.commit.is_empty() { "unknown".to_owned() } else { versions.commit.clone() }),
        ("Postgres", versions.postgres.clone()),
        ("Build", versions.build.clone()),
        ("Flush of the log", flush),
    ];
    let facts = facts
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>\n", escape(&value)))
        .concat();
    format!(
        "<header>\n<h1>Load test of Postbell</h1>\n<p class=\"lead\">{scenarios} in {}, {}</p>\n\
         <dl class=\"facts\">\n{facts}</dl>\n{}</header>\n",
        duration(report.seconds),
        escape(&moment(&report.started_at)),
        cautions(report),
    )
}

fn memory(mb: u64) -> String {
    match mb {
        0 => "unknown".to_owned(),
        1..1_024 => format!("{mb} MB"),
        _ => format!("{:.1} GB", mb as f64 / 1_024.0),
    }
}

/// Cautions that a reader must know before any number.
fn cautions(report: &Report) -> String {
    let mut cautions = Vec::new();
    if report.quick {
        cautions.push(
            "<b>Quick run.</b> Sizes are small: it tests correctness, and its times and rates mean nothing."
                .to_owned(),
        );
    }
    if report.versions.build == "debug" {
        cautions.push("<b>Debug build.</b> The times and rates mean nothing: run with --release.".to_owned());
    }
    if report.slow_flush_ms > 0.0 {
        cautions.push(format!(
            "<b>Slow flush.</b> Each flush of the write-ahead log was delayed by {} ms, as on a disk far away.",
            number(report.slow_flush_ms)
        ));
    }
    if report.machine.load_average > LOAD_QUIET * report.machine.cores as f64 {
        cautions.push(format!(
            "<b>Not alone.</b> At the start the load average was {:.2} on {} cores: other work may be in \
             these figures.",
            report.machine.load_average, report.machine.cores
        ));
    }
    cautions.iter().map(|text| format!("<p class=\"caution\">{text}</p>\n")).collect()
}

/// The result in three numbers, and each failure by name.
pub(crate) fn verdict(report: &Report) -> String {
    let sum =
        |of: fn(&crate::report::Count) -> u64| report.scenarios.iter().map(|s| of(&s.ledger)).sum::<u64>();
    let (sent, lost, duplicated) = (sum(|c| c.sent), sum(|c| c.lost), sum(|c| c.duplicated));
    let lost_mood = if lost > 0 { "bad" } else { "ok" };
    let lost_text = format!("of {} lost", messages(sent));
    let tiles = [
        reached(report),
        tile(lost_mood, &count(lost), &lost_text),
        tile("plain", &count(duplicated), "received more than once, which at-least-once delivery allows"),
    ];
    format!(
        "<section id=\"verdict\">\n<h2 class=\"quiet\">Verdict</h2>\n<div class=\"tiles\">\n{}</div>\n{}</section>\n",
        tiles.concat(),
        failures(report)
    )
}

fn messages(n: u64) -> String {
    format!("{} {}", count(n), if n == 1 { "message" } else { "messages" })
}

fn reached(report: &Report) -> String {
    let figures: Vec<_> = report.scenarios.iter().flat_map(|s| &s.figures).collect();
    let n = figures.len();
    if n == 0 {
        return tile("plain", "–", "no figures to reach");
    }
    if !times_count(report) {
        return tile("plain", &n.to_string(), "figures, not judged in such a run");
    }
    let met = figures.iter().filter(|f| f.is_met()).count();
    tile(if met == n { "ok" } else { "bad" }, &format!("{met} of {n}"), "figures reached")
}

/// A number with its words. The sign says it without colour.
fn tile(mood: &str, number: &str, text: &str) -> String {
    let sign = match mood {
        "ok" => "<i aria-hidden=\"true\">✓</i> ",
        "bad" => "<i aria-hidden=\"true\">✗</i> ",
        _ => "",
    };
    format!("<div class=\"tile {mood}\"><b>{sign}{number}</b> <span>{text}</span></div>\n")
}

fn failures(report: &Report) -> String {
    let mut items = Vec::new();
    for scenario in &report.scenarios {
        let link = format!("<a href=\"#{}\">{}</a>", anchor(&scenario.name), escape(&scenario.name));
        let lost = scenario.ledger.lost;
        if lost > 0 {
            items.push(format!("<li><b class=\"bad\">✗ Lost</b> {link}: {}</li>\n", messages(lost)));
        }
        let missed = |f: &&crate::report::Figure| Outcome::of(f, times_count(report)) == Outcome::Missed;
        for figure in scenario.figures.iter().filter(missed) {
            let (asked, value) = (figures::asked(figure, &scenario.name), figures::value(figure));
            items.push(format!("<li><b class=\"bad\">✗ Missed</b> {link}: {asked}, and was {value}.</li>\n"));
        }
    }
    if items.is_empty() {
        String::new()
    } else {
        format!("<ul class=\"failures\">\n{}</ul>\n", items.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_quick_run_or_a_debug_build_judges_no_figure_and_says_why() {
        let (mut quick, mut debug) = (sample::report(), sample::report());
        assert!(!headline(&quick).contains("mean nothing"));
        assert!(verdict(&quick).contains("2 of 3") && verdict(&quick).contains("✗ Missed"));
        quick.quick = true;
        debug.versions.build = "debug".to_owned();
        for (report, why) in [(quick, "Quick run."), (debug, "Debug build.")] {
            assert!(headline(&report).contains(why));
            let verdict = verdict(&report);
            assert!(
                verdict.contains("not judged") && !verdict.contains("2 of 3") && !verdict.contains("Missed")
            );
        }
    }

    #[test]
    fn a_lost_message_is_bad_even_in_a_quick_run() {
        let mut report = sample::report();
        report.quick = true;
        assert!(!verdict(&report).contains("tile bad"));
        report.scenarios[1].ledger.lost = 2;
        let verdict = verdict(&report);
        assert!(
            verdict.contains("tile bad") && verdict.contains("✗ Lost</b> <a href=\"#s-burst\">"),
            "{verdict}"
        );
    }

    #[test]
    fn a_slow_flush_and_a_busy_machine_are_told() {
        let mut report = sample::report();
        report.slow_flush_ms = 2.5;
        report.machine.load_average = 1.7;
        let head = headline(&report);
        assert!(head.contains("delayed by 2.50 ms") && head.contains("Not alone."), "{head}");
    }
}
