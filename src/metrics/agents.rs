//! The family with a series per agent, and its bound.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::{IntGaugeVec, Opts, proto::MetricFamily};

/// With more registered agents than this the per-agent family is absent. A series costs Prometheus a few
/// kilobytes, and a list that nobody can read helps nobody; the sums stay.
pub const AGENTS_MAX: i64 = 1_000;

const LABELS: [&str; 2] = ["agent", "environment"];

/// One gauge for each registered agent, replaced as a whole.
///
/// Resetting a plain family and filling it again would let a scrape in between see half of the agents, and an
/// alert on absence would fire. Here a scrape sees the old list or the new one.
#[derive(Clone, Debug)]
pub(super) struct Agents {
    opts: Opts,
    /// Never filled; the registry borrows the description from it, which it cannot do through the lock.
    shape: IntGaugeVec,
    current: Arc<Mutex<IntGaugeVec>>,
}

impl Agents {
    pub(super) fn new(opts: Opts) -> Result<Self, prometheus::Error> {
        let shape = IntGaugeVec::new(opts.clone(), &LABELS)?;
        let current = Arc::new(Mutex::new(IntGaugeVec::new(opts.clone(), &LABELS)?));
        Ok(Self { opts, shape, current })
    }

    /// Takes the new list; answers how many agents are known and how many of them are connected.
    pub(super) fn replace<A, E>(
        &self,
        agents: impl IntoIterator<Item = (A, E, bool)>,
    ) -> Result<(i64, i64), prometheus::Error>
    where
        A: AsRef<str>,
        E: AsRef<str>,
    {
        let mut next = IntGaugeVec::new(self.opts.clone(), &LABELS)?;
        let (mut known, mut connected) = (0, 0);
        for (agent, environment, is_connected) in agents {
            known += 1;
            connected += i64::from(is_connected);
            // Past the bound the rest is only counted, so a registry of any size costs no memory here.
            if known <= AGENTS_MAX {
                let labels = [agent.as_ref(), environment.as_ref()];
                next.get_metric_with_label_values(&labels)?.set(i64::from(is_connected));
            }
        }
        if known > AGENTS_MAX {
            // The first thousand alone would look like all of them. An empty family is not exported.
            next = IntGaugeVec::new(self.opts.clone(), &LABELS)?;
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok((known, connected))
    }
}

impl Collector for Agents {
    fn desc(&self) -> Vec<&Desc> {
        self.shape.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // The handle is cloned, so that encoding a thousand series does not hold the lock.
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        current.collect()
    }
}
