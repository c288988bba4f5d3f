//! Counting, and showing the counts to those who look on.
//!
//! `metrics`, `health`, `flow` and `spans` are written to by the tasks as they go, and cost nothing while nobody looks. `status` reads the
//! mesh once for everybody who watches, `agent_metrics` once a minute; `http` serves metrics, health and the status page.
//!
//! Nothing here may hold a message up or change what becomes of one. `broker` starts what runs; the command line reads the rest.

pub(crate) mod agent_metrics;
pub mod flow;
pub(crate) mod health;
pub(crate) mod http;
pub(crate) mod metrics;
pub(crate) mod spans;
pub mod status;
