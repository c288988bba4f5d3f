//! From single latencies to a distribution, by an HDR histogram: three digits at every magnitude.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::report::Latency;

const DIGITS: u8 = 3;
const NANOS_MAX: u64 = 600_000_000_000;
/// The percentiles that a curve is drawn from; the last is the maximum.
const PERCENTILES: &[f64] =
    &[0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 97.5, 99.0, 99.5, 99.9, 99.95, 99.99, 99.999, 100.0];

/// The distribution of some latencies.
///
/// # Errors
/// There are no latencies, or the histogram cannot be made.
pub(crate) fn distribution(
    label: &str,
    latencies: impl Iterator<Item = Duration>,
) -> anyhow::Result<Latency> {
    let mut histogram = Histogram::<u64>::new_with_bounds(1, NANOS_MAX, DIGITS)?;
    for latency in latencies {
        histogram.saturating_record((latency.as_nanos() as u64).max(1));
    }
    anyhow::ensure!(!histogram.is_empty(), "no latency was measured for {label}");
    let ms = |percentile: f64| match percentile {
        100.0 => histogram.max() as f64 / 1e6,
        _ => histogram.value_at_percentile(percentile) as f64 / 1e6,
    };
    Ok(Latency {
        label: label.to_owned(),
        count: histogram.len(),
        percentiles: PERCENTILES.iter().map(|p| (*p, ms(*p))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_values() {
        let latency = distribution("x", (1..=1_000).map(Duration::from_millis)).expect("a distribution");
        assert_eq!(latency.count, 1_000);
        assert!((latency.at(50.0) / 500.0 - 1.0).abs() < 0.01, "{}", latency.at(50.0));
        assert!((latency.at(99.0) / 990.0 - 1.0).abs() < 0.01);
        assert!((latency.at(100.0) / 1_000.0 - 1.0).abs() < 0.01);
        assert!(distribution("none", std::iter::empty()).is_err());
    }
}
