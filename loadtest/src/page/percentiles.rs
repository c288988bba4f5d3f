//! The percentile plot of a scenario: all of its latency distributions in one picture.

use super::plot;
use super::ruler::Scale;
use crate::report::{Axis, Latency, Line, Plot};

/// The picture; nothing where there are no latencies.
pub(crate) fn figure(latencies: &[Latency]) -> String {
    if latencies.is_empty() {
        return String::new();
    }
    let axis = |label: &str, logarithmic| Axis { label: label.to_owned(), logarithmic };
    let plot = Plot {
        title: "Latency by percentile".to_owned(),
        x: axis("percentile", false),
        y: axis("ms", true),
        lines: latencies.iter().map(curve).collect(),
    };
    plot::figure(&plot, Scale::Nines)
}

/// A distribution's curve as far as its size can tell. The slowest of n messages stands for the last n-th of
/// them and is drawn in the middle of that part; percentiles within it say no more than the maximum and are left out.
fn curve(latency: &Latency) -> Line {
    let share = 100.0 / latency.count.max(1) as f64;
    let known = latency.percentiles.iter().copied().filter(|(p, _)| *p <= 100.0 - share);
    let slowest = latency.percentiles.last().filter(|(p, _)| *p >= 100.0);
    let points = known.chain(slowest.map(|(_, ms)| (100.0 - share / 2.0, *ms))).collect();
    Line { label: latency.label.clone(), points, is_limit: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_ends_where_its_count_ends() {
        let percentiles = vec![(0.0, 0.1), (50.0, 0.2), (90.0, 0.3), (99.0, 4.0), (99.9, 5.0), (100.0, 5.0)];
        let line = curve(&Latency { label: "x".to_owned(), count: 100, percentiles });
        assert_eq!(line.points, [(0.0, 0.1), (50.0, 0.2), (90.0, 0.3), (99.0, 4.0), (99.5, 5.0)]);
    }

    #[test]
    fn one_message_is_one_point_and_none_is_no_picture() {
        let one = Latency {
            label: "x".to_owned(),
            count: 1,
            percentiles: vec![(0.0, 2.0), (50.0, 2.0), (100.0, 2.0)],
        };
        assert_eq!(curve(&one).points, [(0.0, 2.0), (50.0, 2.0)]);
        assert!(figure(&[one]).contains("<svg"));
        assert_eq!(figure(&[]), "");
    }
}
