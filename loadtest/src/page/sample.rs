//! A small report for tests: two scenarios, three figures of which one is missed, nothing lost.

use crate::report::{
    Axis, Better, Count, FORMAT, Figure, Latency, Line, Machine, Measure, Plot, Report, Scenario, Versions,
};

/// The report.
pub(crate) fn report() -> Report {
    Report {
        format: FORMAT,
        started_at: "2026-11-24T02:00:17Z".to_owned(),
        seconds: 843.0,
        quick: false,
        slow_flush_ms: 0.0,
        machine: Machine {
            cpu: "A processor".to_owned(),
            cores: 2,
            memory_mb: 8_000,
            system: "linux 6.1".to_owned(),
            load_average: 0.1,
        },
        versions: Versions {
            postbell: "0.1.0".to_owned(),
            commit: "abc1234".to_owned(),
            postgres: "17.2".to_owned(),
            build: "release".to_owned(),
        },
        settings: [("postgres fsync".to_owned(), "on".to_owned())].into(),
        scenarios: vec![
            scenario("idle-latency", vec![figure("p50 ≤ 1 ms", 0.4), figure("p99 ≤ 1 ms", 0.9)]),
            scenario("burst", vec![figure("p99 ≤ 1 ms", 1.2)]),
        ],
    }
}

fn figure(asked: &str, value: f64) -> Figure {
    Figure { asked: asked.to_owned(), value, limit: 1.0, unit: "ms".to_owned(), at_least: false }
}

fn scenario(name: &str, figures: Vec<Figure>) -> Scenario {
    let axis = |label: &str| Axis { label: label.to_owned(), logarithmic: false };
    let line = |label: &str, points, is_limit| Line { label: label.to_owned(), points, is_limit };
    Scenario {
        name: name.to_owned(),
        about: "Whether it holds.".to_owned(),
        method: "How.".to_owned(),
        seconds: 12.0,
        ledger: Count { sent: 1_000, received: 1_000, lost: 0, duplicated: 2 },
        figures,
        measures: vec![Measure {
            name: "delivered".to_owned(),
            unit: "msg/s".to_owned(),
            better: Better::Higher,
            rounds: vec![90.0, 100.0, 110.0],
        }],
        latencies: vec![Latency {
            label: "broker".to_owned(),
            count: 1_000,
            percentiles: vec![(0.0, 0.2), (50.0, 0.4), (90.0, 0.5), (99.0, 0.9), (99.9, 3.0), (100.0, 7.0)],
        }],
        plots: vec![Plot {
            title: "Over time".to_owned(),
            x: axis("seconds"),
            y: axis("ms"),
            lines: vec![
                line("p50", vec![(0.0, 0.4), (1.0, 0.5)], false),
                line("1 ms", vec![(0.0, 1.0), (1.0, 1.0)], true),
            ],
        }],
        notes: vec!["A note.".to_owned()],
    }
}
