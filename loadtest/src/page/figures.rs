//! Figures to reach, in tables: all of them, and those of a scenario.

use super::text::{anchor, bound, escape, number_beside, with_unit};
use super::times_count;
use crate::report::{Figure, Report, Scenario};

/// How a figure came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The bound was reached.
    Reached,
    /// The bound was not reached.
    Missed,
    /// The run's times mean nothing, so neither can be said.
    NotJudged,
}

impl Outcome {
    /// How this figure came out; not judged unless the times of the run count.
    pub(crate) fn of(figure: &Figure, times_count: bool) -> Self {
        match (times_count, figure.is_met()) {
            (false, _) => Self::NotJudged,
            (true, true) => Self::Reached,
            (true, false) => Self::Missed,
        }
    }

    /// A sign and a word, so that colour only helps.
    fn mark(self) -> &'static str {
        match self {
            Self::Reached => "<span class=\"ok\">✓ yes</span>",
            Self::Missed => "<b class=\"bad\">✗ NO</b>",
            Self::NotJudged => "<span class=\"muted\">not judged</span>",
        }
    }
}

/// Every figure of the run.
pub(crate) fn of_all(report: &Report) -> String {
    let row = |scenario: &Scenario, figure: &Figure| {
        let link = format!("<a href=\"#{}\">{}</a>", anchor(&scenario.name), escape(&scenario.name));
        row(figure, &scenario.name, times_count(report), &format!("<td class=\"of\">{link}</td>"))
    };
    let rows =
        report.scenarios.iter().flat_map(|s| s.figures.iter().map(move |f| row(s, f))).collect::<String>();
    let table = table("<th>Scenario</th>", &rows);
    format!("<section id=\"figures\">\n<h2>Figures</h2>\n{table}</section>\n")
}

/// The figures of one scenario; nothing if it has none.
pub(crate) fn of_scenario(scenario: &Scenario, times_count: bool) -> String {
    let rows: String = scenario.figures.iter().map(|f| row(f, &scenario.name, times_count, "")).collect();
    if rows.is_empty() { rows } else { table("", &rows) }
}

/// The demand, without the scenario's name, which stands beside it.
pub(crate) fn asked(figure: &Figure, scenario: &str) -> String {
    let asked = figure.asked.strip_prefix(scenario).and_then(|rest| rest.strip_prefix(": "));
    escape(asked.unwrap_or(&figure.asked))
}

/// The value that came, with its unit.
pub(crate) fn value(figure: &Figure) -> String {
    escape(&with_unit(&number_beside(figure.value, figure.limit), &figure.unit))
}

fn table(first: &str, rows: &str) -> String {
    if rows.is_empty() {
        return "<p class=\"muted\">None of these scenarios has a figure to reach.</p>\n".to_owned();
    }
    let heads = format!(
        "{first}<th>Asked</th>{}<th>Reached</th>",
        ["Value", "Limit", "Margin"].map(number_head).concat()
    );
    format!("<table class=\"figures\">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n")
}

fn number_head(title: &str) -> String {
    format!("<th class=\"n\">{title}</th>")
}

fn row(figure: &Figure, scenario: &str, times_count: bool, first: &str) -> String {
    let outcome = Outcome::of(figure, times_count);
    let sign = if figure.at_least { '≥' } else { '≤' };
    format!(
        "<tr{}>{first}<td class=\"asked\">{}</td><td class=\"n value\">{}</td><td class=\"n limit\">{sign} {}</td>\
         <td class=\"n margin\">{}</td><td class=\"reached\">{}</td></tr>\n",
        if outcome == Outcome::Missed { " class=\"missed\"" } else { "" },
        asked(figure, scenario),
        value(figure),
        escape(&with_unit(&bound(figure.limit), &figure.unit)),
        if outcome == Outcome::NotJudged { String::new() } else { margin(figure) },
        outcome.mark(),
    )
}

/// How many times better than asked: below 1 it was missed. A bound of zero has no margin.
fn margin(figure: &Figure) -> String {
    let (over, under) =
        if figure.at_least { (figure.value, figure.limit) } else { (figure.limit, figure.value) };
    if !(over > 0.0 && under > 0.0 && (over / under).is_finite()) {
        return "–".to_owned();
    }
    format!("{} ×", number_beside(over / under, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64, limit: f64, at_least: bool) -> Figure {
        Figure { asked: "burst: p99 ≤ 1".to_owned(), value, limit, unit: "ms".to_owned(), at_least }
    }

    #[test]
    fn a_margin_above_one_is_reached() {
        assert_eq!(margin(&figure(20.0, 50.0, false)), "2.50 ×");
        assert_eq!(margin(&figure(40.0, 50.0, true)), "0.800 ×");
        assert_eq!(margin(&figure(50.04, 50.0, false)), "0.999 ×");
        for (value, limit) in [(0.0, 0.0), (0.0, 50.0), (f64::NAN, 50.0), (-1.0, 50.0)] {
            assert_eq!(margin(&figure(value, limit, false)), "–");
        }
    }

    #[test]
    fn an_outcome_is_told_without_colour() {
        let [met, missed] = [figure(1.0, 1.0, true), figure(f64::NAN, 1.0, false)];
        assert!(row(&met, "burst", true, "").contains("✓ yes"));
        assert!(row(&missed, "burst", true, "").contains("✗ NO"));
        assert!(row(&missed, "burst", false, "").contains("not judged"));
    }

    #[test]
    fn a_name_that_stands_beside_is_not_said_again() {
        assert_eq!(asked(&figure(1.0, 1.0, true), "burst"), "p99 ≤ 1");
        assert_eq!(asked(&figure(1.0, 1.0, true), "bur"), "burst: p99 ≤ 1");
    }
}
