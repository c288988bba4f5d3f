//! The findings of a run, as `report.json` holds them. The page, `compare` and the verdict are made from nothing
//! else.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The shape of `report.json`; `compare` refuses another.
pub(crate) const FORMAT: u32 = 1;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The shape of the file, [`FORMAT`].
    pub(crate) format: u32,
    /// When it began, RFC 3339 in UTC.
    pub(crate) started_at: String,
    /// How many seconds it took.
    pub(crate) seconds: f64,
    /// Small sizes, for correctness: its times mean nothing.
    pub(crate) quick: bool,
    /// By how many milliseconds each flush of the write-ahead log was delayed; 0 if by none.
    pub(crate) slow_flush_ms: f64,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// The versions of what ran.
    pub(crate) versions: Versions,
    /// Settings of the server and the broker that bear on the figures.
    pub(crate) settings: BTreeMap<String, String>,
    /// In the order in which they ran.
    pub(crate) scenarios: Vec<Scenario>,
}

/// Where a run ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) cpu: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// Memory in MB.
    pub(crate) memory_mb: u64,
    /// Operating system and kernel.
    pub(crate) system: String,
    /// The load average over one minute at the start: how much ran beside the load test.
    pub(crate) load_average: f64,
}

/// The versions of what ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Versions {
    /// The broker's version.
    pub(crate) postbell: String,
    /// The commit that it was built from, if that is known.
    pub(crate) commit: String,
    /// The server's version.
    pub(crate) postgres: String,
    /// `release` or `debug`: a debug build's times mean nothing.
    pub(crate) build: String,
}

/// One scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// The scenario's name on the command line.
    pub(crate) name: String,
    /// The question that it asks, in a sentence.
    pub(crate) about: String,
    /// How it was measured.
    pub(crate) method: String,
    /// How many seconds it took.
    pub(crate) seconds: f64,
    /// Every message that it sent, counted by id.
    pub(crate) ledger: Count,
    /// The figures to reach, and the values that came.
    pub(crate) figures: Vec<Figure>,
    /// Numbers.
    pub(crate) measures: Vec<Measure>,
    /// Latency distributions.
    pub(crate) latencies: Vec<Latency>,
    /// Plots.
    pub(crate) plots: Vec<Plot>,
    /// Notes that a reader must know with these numbers.
    pub(crate) notes: Vec<String>,
}

/// Messages counted by id, each with each of its recipients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Count {
    /// Committed, times recipients that were there to take them.
    pub(crate) sent: u64,
    /// Received at least once.
    pub(crate) received: u64,
    /// Committed and never received.
    pub(crate) lost: u64,
    /// Receipts beyond the first.
    pub(crate) duplicated: u64,
}

/// A figure to reach.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figure {
    /// The demand, as a reader would say it: `p50 ≤ raw NOTIFY p50 + 0.3 ms`.
    pub(crate) asked: String,
    /// The value that came.
    pub(crate) value: f64,
    /// The bound that the value must reach.
    pub(crate) limit: f64,
    /// The unit of both; empty for a ratio.
    pub(crate) unit: String,
    /// Whether a larger value is better: then the limit is a floor.
    pub(crate) at_least: bool,
}

impl Figure {
    /// Whether it was reached.
    pub(crate) fn is_met(&self) -> bool {
        if self.at_least { self.value >= self.limit } else { self.value <= self.limit }
    }
}

/// A number, measured once or several times.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Measure {
    /// The name, unique in its scenario, by which reports are compared.
    pub(crate) name: String,
    /// `msg/s`, `ms`, `MB`, …; empty for a ratio.
    pub(crate) unit: String,
    /// Which way is better, for `compare`.
    pub(crate) better: Better,
    /// Each round's value, in order; never empty.
    pub(crate) rounds: Vec<f64>,
}

/// Which way a number is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// Rates.
    Higher,
    /// Times and memory.
    Lower,
    /// Neither is better: the number only describes.
    Neither,
}

impl Measure {
    /// The middle value.
    pub(crate) fn median(&self) -> f64 {
        let mut sorted = self.rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        if n == 0 {
            return f64::NAN;
        }
        if n % 2 == 1 { sorted[n / 2] } else { (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0 }
    }
}

/// A distribution of latencies, from the intended moment of sending.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    /// The name, unique in its scenario: `broker`, `raw NOTIFY`, ….
    pub(crate) label: String,
    /// How many messages.
    pub(crate) count: u64,
    /// Percentile (0 to 100) and milliseconds, rising: what a curve is drawn from. The last is 100, the maximum.
    pub(crate) percentiles: Vec<(f64, f64)>,
}

impl Latency {
    /// The milliseconds at one of [`percentiles`](Self::percentiles), or at the next higher one if it is not among
    /// them.
    pub(crate) fn at(&self, percentile: f64) -> f64 {
        let found = self.percentiles.iter().find(|(p, _)| *p >= percentile - 1e-9);
        found.map_or(f64::NAN, |(_, ms)| *ms)
    }
}

/// A picture of lines.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Plot {
    /// The title above it.
    pub(crate) title: String,
    /// The horizontal axis, with its unit.
    pub(crate) x: Axis,
    /// The vertical axis, with its unit.
    pub(crate) y: Axis,
    /// The lines, at most eight.
    pub(crate) lines: Vec<Line>,
}

/// An axis.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Axis {
    /// The label of the axis, with the unit.
    pub(crate) label: String,
    /// Powers of ten instead of equal steps. Values are above zero then.
    pub(crate) logarithmic: bool,
}

/// A line of a plot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// The line's label in the legend.
    pub(crate) label: String,
    /// The points as x and y, by rising x.
    pub(crate) points: Vec<(f64, f64)>,
    /// A bound to compare with, drawn dashed.
    pub(crate) is_limit: bool,
}
