//! The scenarios, one a file: the question, the sizes, the figures.

mod agents;
mod backlog;
mod burst;
mod drain;
mod fan_out;
mod held_xmin;
mod idle;
mod idle_latency;
mod peers;
mod publish;
mod python;
mod reconnect;
mod slow_agent;
mod sustained;
mod writers;

use futures_util::future::LocalBoxFuture;

use crate::bench::{Bench, Found};

/// A scenario.
pub(crate) struct Spec {
    /// The scenario's name on the command line.
    pub(crate) name: &'static str,
    /// The question that it asks, in a sentence.
    pub(crate) about: &'static str,
    /// How it measures.
    pub(crate) method: &'static str,
    /// Runs it on a database and with a broker of its own.
    pub(crate) run: for<'a> fn(&'a Bench<'a>) -> LocalBoxFuture<'a, anyhow::Result<Found>>,
}

/// Every scenario, in the order in which a whole run takes them.
pub(crate) const ALL: &[Spec] = &[
    idle::SPEC,
    idle_latency::SPEC,
    writers::SPEC,
    sustained::SPEC,
    drain::SPEC,
    python::SPEC,
    publish::SPEC,
    fan_out::SPEC,
    burst::SPEC,
    slow_agent::SPEC,
    agents::SPEC,
    reconnect::SPEC,
    held_xmin::SPEC,
    backlog::SPEC,
];

/// Scenarios that a run takes only by name: they need more than this machine has by itself.
pub(crate) const BY_NAME: &[Spec] = &[peers::SPEC];
