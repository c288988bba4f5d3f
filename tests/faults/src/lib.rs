//! The fault campaign: starts Postgres, two brokers and their agents as processes, breaks each of them and the links
//! between them under a steady load, and compares at the end what was sent with how it ended.
//!
//! A plan (`schedule`) is a function of a seed. The campaign (`campaign`) sets the stage, starts the load (`load`)
//! and carries the plan out (`inject`), through the proxies on the links (`proxy`) and by signals (`process`). The
//! ledger (`ledger`) gathers what producers sent and what agents saw. The checker (`checker`) compares the ledger
//! with the tables (`found`), and the report (`report`) tells the effects of each fault.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "its rows are its own: where one is not as expected, stopping is right; and what it measures is real time"
)]

pub mod agent;
pub mod agents;
pub mod broker;
pub mod campaign;
pub mod checker;
pub mod episode;
pub mod found;
pub mod handler;
pub mod inject;
pub mod ledger;
pub mod load;
pub mod measure;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod report;
pub mod schedule;
pub mod stage;
pub mod task;
pub mod watch;
