//! Makes a series and registers it. `metrics.rs` lists the series; this file only knows how.

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

use super::family::Family;
use super::flow::FlowCounter;

pub(super) fn counter(registry: &Registry, opts: Opts) -> Result<IntCounter, prometheus::Error> {
    add(registry, IntCounter::with_opts(opts)?)
}

pub(super) fn gauge(registry: &Registry, opts: Opts) -> Result<IntGauge, prometheus::Error> {
    add(registry, IntGauge::with_opts(opts)?)
}

pub(super) fn float_gauge(registry: &Registry, opts: Opts) -> Result<Gauge, prometheus::Error> {
    add(registry, Gauge::with_opts(opts)?)
}

pub(super) fn histogram(
    registry: &Registry,
    opts: Opts,
    buckets: &[f64],
) -> Result<Histogram, prometheus::Error> {
    add(registry, Histogram::with_opts(HistogramOpts::from(opts).buckets(buckets.to_vec()))?)
}

pub(super) fn flow(registry: &Registry, opts: Opts) -> Result<FlowCounter, prometheus::Error> {
    add(registry, FlowCounter::new(opts)?)
}

pub(super) fn replaced<const LABELS: usize>(
    registry: &Registry,
    opts: Opts,
    labels: [&'static str; LABELS],
) -> Result<Family<LABELS>, prometheus::Error> {
    add(registry, Family::new(opts, labels)?)
}

/// A family with one label. Asking for a series creates it, at 0.
macro_rules! family {
    ($make:ident, $vec:ident, $one:ident) => {
        pub(super) fn $make(
            registry: &Registry,
            opts: Opts,
            label: &str,
            values: impl Iterator<Item = impl AsRef<str>>,
        ) -> Result<$vec, prometheus::Error> {
            let family = add(registry, $vec::new(opts, &[label])?)?;
            for value in values {
                let _at_zero: $one = family.get_metric_with_label_values(&[value.as_ref()])?;
            }
            Ok(family)
        }
    };
}

family!(counters, IntCounterVec, IntCounter);
family!(gauges, IntGaugeVec, IntGauge);
family!(float_gauges, GaugeVec, Gauge);

/// Registers a series; the registry and the caller share it.
fn add<C: Collector + Clone + 'static>(registry: &Registry, series: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(series.clone()))?;
    Ok(series)
}
