//! The means of a scenario, and its findings.

use std::time::Duration;

use indicatif::ProgressBar;

use crate::report::{Axis, Better, Count, Figure, Latency, Line, Measure, Plot, Scenario};
use crate::stage::{Database, Stage};

/// The means of a scenario: the stage, a database, and the choices of the run.
pub(crate) struct Bench<'a> {
    pub(crate) stage: &'a Stage,
    pub(crate) database: &'a Database,
    pub(crate) quick: bool,
    pub(crate) slow_flush_ms: f64,
    pub(crate) progress: ProgressBar,
}

impl Bench<'_> {
    /// A size: the second one in a quick run, which asks only for correctness.
    pub(crate) fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// A time, chosen in the same way.
    pub(crate) fn lasting(&self, full_ms: u64, quick_ms: u64) -> Duration {
        Duration::from_millis(if self.quick { quick_ms } else { full_ms })
    }

    /// Shows the present step, and how many of all steps are done.
    pub(crate) fn step(&self, what: &str, done: usize, of: usize) {
        self.progress.set_length(of as u64);
        self.progress.set_position(done as u64);
        self.progress.set_message(what.to_owned());
    }
}

/// The findings of a scenario, gathered as it goes.
#[derive(Default)]
pub(crate) struct Found {
    ledger: Count,
    figures: Vec<Figure>,
    measures: Vec<Measure>,
    latencies: Vec<Latency>,
    plots: Vec<Plot>,
    notes: Vec<String>,
}

impl Found {
    /// Adds to the balance of messages.
    pub(crate) fn count(&mut self, count: Count) {
        self.ledger.sent += count.sent;
        self.ledger.received += count.received;
        self.ledger.lost += count.lost;
        self.ledger.duplicated += count.duplicated;
    }

    /// Adds a figure that should be no smaller than its limit.
    pub(crate) fn at_least(&mut self, asked: &str, value: f64, limit: f64, unit: &str) {
        let (asked, unit) = (asked.to_owned(), unit.to_owned());
        self.figures.push(Figure { asked, value, limit, unit, at_least: true });
    }

    /// Adds a figure that should be no larger than its limit.
    pub(crate) fn at_most(&mut self, asked: &str, value: f64, limit: f64, unit: &str) {
        let (asked, unit) = (asked.to_owned(), unit.to_owned());
        self.figures.push(Figure { asked, value, limit, unit, at_least: false });
    }

    /// Adds a number, by its rounds; returns the median.
    pub(crate) fn measure(&mut self, name: &str, unit: &str, better: Better, rounds: Vec<f64>) -> f64 {
        let measure = Measure { name: name.to_owned(), unit: unit.to_owned(), better, rounds };
        let median = measure.median();
        self.measures.push(measure);
        median
    }

    /// Adds a distribution, and returns it for the figures.
    pub(crate) fn latency(&mut self, latency: Latency) -> Latency {
        self.latencies.push(latency.clone());
        latency
    }

    /// Adds a plot.
    pub(crate) fn plot(&mut self, title: &str, x: Axis, y: Axis, lines: Vec<Line>) {
        self.plots.push(Plot { title: title.to_owned(), x, y, lines });
    }

    /// Adds a note that a reader must know.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Something is not here, so that a part is not measured: a note, or a failure where `POSTBELL_TEST_REQUIRE` is `all`.
    pub(crate) fn left_out(&mut self, why: &str) -> anyhow::Result<()> {
        if std::env::var_os("POSTBELL_TEST_REQUIRE").is_some_and(|value| value == "all") {
            anyhow::bail!("{why}: POSTBELL_TEST_REQUIRE=all wants it measured");
        }
        self.note(format!("Not measured: {why}."));
        Ok(())
    }

    /// Makes the report of the scenario from all that was measured.
    pub(crate) fn into_scenario(self, name: &str, about: &str, method: &str, seconds: f64) -> Scenario {
        Scenario {
            name: name.to_owned(),
            about: about.to_owned(),
            method: method.to_owned(),
            seconds,
            ledger: self.ledger,
            figures: self.figures,
            measures: self.measures,
            latencies: self.latencies,
            plots: self.plots,
            notes: self.notes,
        }
    }
}

/// An axis of equal steps.
pub(crate) fn linear(label: &str) -> Axis {
    Axis { label: label.to_owned(), logarithmic: false }
}

/// An axis of powers of ten.
pub(crate) fn logarithmic(label: &str) -> Axis {
    Axis { label: label.to_owned(), logarithmic: true }
}

/// A line of a plot.
pub(crate) fn line(label: &str, points: Vec<(f64, f64)>) -> Line {
    Line { label: label.to_owned(), points, is_limit: false }
}

/// A bound to compare with, from the first x to the last.
pub(crate) fn limit(label: &str, y: f64, from: f64, to: f64) -> Line {
    Line { label: label.to_owned(), points: vec![(from, y), (to, y)], is_limit: true }
}

/// The middle of some values.
pub(crate) fn median(values: &[f64]) -> f64 {
    let rounds = values.to_vec();
    Measure { name: String::new(), unit: String::new(), better: Better::Neither, rounds }.median()
}
