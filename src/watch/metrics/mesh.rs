//! Readings of the whole mesh from the database, and bounds on the series that they make.
//!
//! Every broker reads the same, so queries use `max by (…)` and never `sum`.

use super::Metrics;
use crate::store::gauges::{MeshReading, OTHERS};

impl Metrics {
    /// Sets a reading of the mesh.
    ///
    /// # Errors
    /// Prometheus does not take a label.
    pub fn set_mesh(&self, reading: &MeshReading) -> Result<(), prometheus::Error> {
        let mut agents = Vec::with_capacity(reading.agents.len());
        for (environment, status, n) in &reading.agents {
            agents.push(([self.flow.label(environment)?, status], *n as f64));
        }
        self.agents_by_status.replace(agents)?;
        for (from, to, n) in &reading.flow {
            self.flow.add(from, to, *n)?;
        }
        let pairs = reading.pairs.iter();
        self.agent_flow.replace(pairs.map(|(from, to, rate)| ([&**from, &**to], *rate)))?;
        let alerts = reading.alerts.iter();
        let alerts = alerts.map(|(severity, status, n)| ([&**severity, &**status], *n as f64));
        self.alerts.replace(alerts.chain(no_alerts()))?;
        self.dead_letters.replace(with_others(&reading.dead))
    }

    /// Sets how many deliveries wait for each agent; [`OTHERS`] are those beyond
    /// [`DEEPEST_MAX`](crate::store::gauges::DEEPEST_MAX).
    ///
    /// # Errors
    /// Prometheus does not take a label.
    pub fn set_waiting(&self, agents: &[(String, i64)]) -> Result<(), prometheus::Error> {
        self.agent_waiting.replace(with_others(agents))
    }
}

/// Zeros, so that each severity has a series before its first alert.
fn no_alerts<'a>() -> impl Iterator<Item = ([&'a str; 2], f64)> {
    let statuses = ["active", "acknowledged"].into_iter();
    statuses
        .flat_map(|status| ["low", "medium", "high", "critical"].map(|severity| ([severity, status], 0.0)))
}

/// Adds [`OTHERS`] in any case, so that the sum of none is 0.
fn with_others(counts: &[(String, i64)]) -> impl Iterator<Item = ([&str; 1], f64)> {
    counts.iter().map(|(agent, n)| ([&**agent], *n as f64)).chain([([OTHERS], 0.0)])
}
