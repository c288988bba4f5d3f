//! The guide through the page: its contents, the settings of the run, and how to read it.

use super::figures::Outcome;
use super::text::{anchor, escape};
use super::times_count;
use crate::report::{Report, Scenario};

/// The table of contents, each scenario with how it went.
pub(crate) fn contents(report: &Report) -> String {
    let item = |scenario: &Scenario| {
        let mark = mark(scenario, times_count(report));
        format!("<li><a href=\"#{}\">{}</a> {mark}</li>\n", anchor(&scenario.name), escape(&scenario.name))
    };
    let scenarios: String = report.scenarios.iter().map(item).collect();
    format!(
        "<nav id=\"contents\" aria-label=\"Contents\">\n<ul>\n<li><a href=\"#verdict\">Verdict</a></li>\n\
         <li><a href=\"#figures\">Figures</a></li>\n</ul>\n<ul>\n{scenarios}</ul>\n\
         <ul>\n<li><a href=\"#settings\">Settings</a></li>\n\
         <li><a href=\"#reading\">How to read this</a></li>\n</ul>\n</nav>\n"
    )
}

fn mark(scenario: &Scenario, times_count: bool) -> &'static str {
    let missed = scenario.figures.iter().any(|f| Outcome::of(f, times_count) == Outcome::Missed);
    if scenario.ledger.lost > 0 {
        return "<b class=\"bad\" title=\"messages were lost\">✗</b>";
    }
    match (missed, times_count && !scenario.figures.is_empty()) {
        (true, _) => "<b class=\"bad\" title=\"a figure was missed\">✗</b>",
        (false, true) => "<span class=\"ok\" title=\"every figure was reached\">✓</span>",
        (false, false) => "",
    }
}

/// Settings that bear on the figures.
pub(crate) fn settings(report: &Report) -> String {
    let row = |(name, value): (&String, &String)| {
        format!("<div><dt>{}</dt><dd>{}</dd></div>\n", escape(name), escape(value))
    };
    let rows: String = report.settings.iter().map(row).collect();
    let rows = if rows.is_empty() {
        "<p class=\"muted\">None were recorded.</p>\n".to_owned()
    } else {
        format!("<dl class=\"settings\">\n{rows}</dl>\n")
    };
    format!("<section id=\"settings\">\n<h2>Settings</h2>\n{rows}</section>\n")
}

const READING: &[(&str, &str)] = &[
    (
        "Figure",
        "A bound to reach. The margin says how many times better than the bound a figure came out; below 1 it was missed.",
    ),
    (
        "Floor",
        "The same work by plain SQL, without the broker, on the same database in the same run. A ratio to a floor says \
         more about other machines than a rate or a time does.",
    ),
    (
        "Rounds and noise",
        "A number is the median of its rounds. The noise is half the range of the rounds over the median: a difference \
         smaller than that says nothing. A single round has no known noise.",
    ),
    (
        "Latency",
        "Milliseconds from the moment at which a message should have been sent, even if it was sent late, so that a \
         stall counts for every message that had to wait for it. p99 = 5 means that 1 of 100 took longer than 5 ms.",
    ),
    (
        "Percentile plot",
        "Each further nine takes as much room, and each power of ten of the milliseconds too. The last point is the \
         slowest message. Where fewer than 1,000 were measured, p99.9 is the slowest.",
    ),
    (
        "Ledger",
        "Every message is counted by its id, once for each agent that should get it. Lost: committed and never \
         received; this must be 0. Duplicated: received again, which at-least-once delivery allows.",
    ),
    (
        "Two runs",
        "Every number here is in report.json. <code>loadtest compare before.json after.json</code> tells what changed \
         from one run to another by more than the noise.",
    ),
];

/// The meaning of the words on this page.
pub(crate) fn how_to_read() -> String {
    let rows: String =
        READING.iter().map(|(term, text)| format!("<dt>{term}</dt><dd>{text}</dd>\n")).collect();
    format!(
        "<section id=\"reading\">\n<h2>How to read this</h2>\n<dl class=\"reading\">\n{rows}</dl>\n</section>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample;
    use super::*;

    #[test]
    fn a_scenario_is_marked_by_what_came_of_it() {
        let [mut good, bad] = <[Scenario; 2]>::try_from(sample::report().scenarios).expect("two scenarios");
        assert!(mark(&good, true).contains('✓'));
        assert_eq!(mark(&good, false), "");
        assert!(mark(&bad, true).contains("missed"));
        assert_eq!(mark(&bad, false), "");
        good.ledger.lost = 1;
        assert!(mark(&good, false).contains("lost"));
    }
}
