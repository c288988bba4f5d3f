#![doc = include_str!("ARCHITECTURE.md")]

pub mod access;
pub mod agent_metrics;
pub mod broker;
pub mod cli;
pub mod config;
pub mod dead_letters;
pub mod devdb;
pub mod dispatch;
pub mod flow;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod health;
pub mod http;
pub mod leaser;
pub mod listener;
pub mod metrics;
pub mod moment;
pub mod open_files;
pub mod pace;
pub mod postgres;
pub mod presence;
pub mod publisher;
pub mod reaper;
pub mod refiller;
pub mod server;
pub mod session;
pub mod settler;
pub mod sockets;
pub mod spans;
pub mod status;
pub mod tailer;

/// The client by its old name, for one more release: it is the package `postbell-client`.
pub use postbell_client as client;
