//! Sums up the delivery times of an hour's minutes. Pure.

use super::mesh::{DeliveryTimes, TARGET_MS};
use crate::watch::metrics::DELIVERY_BUCKETS_S;

/// Sums up the minutes.
pub(super) fn summary(minutes: Vec<Vec<u64>>) -> DeliveryTimes {
    let bounds_ms: Vec<f64> = DELIVERY_BUCKETS_S.iter().map(|seconds| seconds * 1_000.0).collect();
    let mut hour = vec![0; bounds_ms.len() + 1];
    for minute in &minutes {
        for (sum, count) in hour.iter_mut().zip(minute) {
            *sum += count;
        }
    }
    let kept = bounds_ms.iter().zip(&hour).filter(|(bound, _)| **bound <= TARGET_MS as f64);
    DeliveryTimes {
        target_ms: TARGET_MS,
        count: hour.iter().sum(),
        within_target: kept.map(|(_, count)| count).sum(),
        p50_ms: quantile(&bounds_ms, &hour, 0.5),
        p99_ms: quantile(&bounds_ms, &hour, 0.99),
        bounds_ms,
        minutes,
    }
}

/// The value below which this share of the counts lies, interpolated within its bucket. Beyond the last bound, that
/// bound.
fn quantile(bounds: &[f64], counts: &[u64], share: f64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    let rank = share * all as f64;
    let (mut below, mut low) = (0.0, 0.0);
    for (bound, count) in bounds.iter().zip(counts) {
        let count = *count as f64;
        if count > 0.0 && below + count >= rank {
            let value = low + (bound - low) * (rank - below) / count;
            return Some((value * 10.0).round() / 10.0);
        }
        below += count;
        low = *bound;
    }
    (all > 0).then_some(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_is_a_bound_so_its_share_is_exact() {
        let mut minute = vec![0; DELIVERY_BUCKETS_S.len() + 1];
        let at = DELIVERY_BUCKETS_S.iter().position(|s| *s == 5.0).expect("a bound");
        minute[at] = 3;
        minute[at + 1] = 2;
        let delivery = summary(vec![minute.clone(), minute]);
        assert_eq!((delivery.count, delivery.within_target), (10, 6));
        assert_eq!(delivery.target_ms, TARGET_MS);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        assert_eq!(quantile(&[1.0, 2.0], &[0, 0, 0], 0.5), None);
        assert_eq!(quantile(&[1.0, 2.0], &[10, 10, 0], 0.5), Some(1.0));
        assert_eq!(quantile(&[1.0, 2.0], &[0, 10, 0], 0.5), Some(1.5));
        assert_eq!(quantile(&[1.0, 2.0], &[0, 0, 7], 0.99), Some(2.0), "beyond the last bound");
    }
}
