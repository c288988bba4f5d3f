#![doc = include_str!("ARCHITECTURE.md")]

pub mod agents;
pub mod base;
pub mod broker;
pub mod cli;
pub mod devdb;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod pipeline;
pub mod store;
pub mod watch;

/// The client by its old name, for one more release: it is the package `postbell-client`.
pub use postbell_client as client;
