//! Messages from environment to environment, with a bound on the series that environments' names can make.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::{IntCounterVec, Opts, proto::MetricFamily};

use crate::store::gauges::OTHERS;

/// The most environments with series of their own; the others count as [`OTHERS`]. The number of pairs is this
/// squared.
pub(crate) const ENVIRONMENTS_MAX: usize = 16;

/// A counter for each pair of known environments, from 0 on.
#[derive(Clone, Debug)]
pub(super) struct FlowCounter {
    counters: IntCounterVec,
    /// Counters cannot be taken back, so the environments that came first stay.
    known: Arc<Mutex<BTreeSet<String>>>,
}

impl FlowCounter {
    pub(super) fn new(opts: Opts) -> Result<Self, prometheus::Error> {
        let counters = IntCounterVec::new(opts, &["from_environment", "to_environment"])?;
        Ok(Self { counters, known: Arc::default() })
    }

    /// Makes an environment known, if there is room. Returns its label's value.
    pub(super) fn label<'a>(&self, environment: &'a str) -> Result<&'a str, prometheus::Error> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(environment) {
            return Ok(environment);
        }
        if known.len() >= ENVIRONMENTS_MAX {
            return Ok(OTHERS);
        }
        known.insert(environment.to_owned());
        for other in known.iter() {
            for pair in [[environment, other], [other, environment]] {
                let _at_zero = self.counters.get_metric_with_label_values(&pair)?;
            }
        }
        Ok(environment)
    }

    pub(super) fn add(&self, from: &str, to: &str, messages: u64) -> Result<(), prometheus::Error> {
        let pair = [self.label(from)?, self.label(to)?];
        self.counters.get_metric_with_label_values(&pair)?.inc_by(messages);
        Ok(())
    }
}

impl Collector for FlowCounter {
    fn desc(&self) -> Vec<&Desc> {
        self.counters.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.counters.collect()
    }
}
