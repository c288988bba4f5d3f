//! A family whose label values come from outside: replaced as a whole, and bounded by the code that fills it.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::{GaugeVec, Opts, proto::MetricFamily};

/// One gauge for each row of label values.
///
/// If a plain family were reset and filled again, a scrape in between would see half of it, and an alert on absence
/// would fire. With this one a scrape sees the old list or the new one.
#[derive(Clone, Debug)]
pub(super) struct Family<const LABELS: usize> {
    opts: Opts,
    labels: [&'static str; LABELS],
    /// Never filled. The registry borrows the description from it, since a lock cannot lend it.
    shape: GaugeVec,
    current: Arc<Mutex<GaugeVec>>,
}

impl<const LABELS: usize> Family<LABELS> {
    pub(super) fn new(opts: Opts, labels: [&'static str; LABELS]) -> Result<Self, prometheus::Error> {
        let shape = GaugeVec::new(opts.clone(), &labels)?;
        let current = Arc::new(Mutex::new(GaugeVec::new(opts.clone(), &labels)?));
        Ok(Self { opts, labels, shape, current })
    }

    /// Replaces the list; rows with the same labels are added up. An empty family is not exported.
    pub(super) fn replace<S: AsRef<str>>(
        &self,
        rows: impl IntoIterator<Item = ([S; LABELS], f64)>,
    ) -> Result<(), prometheus::Error> {
        let next = GaugeVec::new(self.opts.clone(), &self.labels)?;
        for (labels, value) in rows {
            next.get_metric_with_label_values(&labels.each_ref().map(AsRef::as_ref))?.add(value);
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }
}

impl<const LABELS: usize> Collector for Family<LABELS> {
    fn desc(&self) -> Vec<&Desc> {
        self.shape.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // The handle is cloned, so that encoding a thousand series does not hold the lock.
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        current.collect()
    }
}
