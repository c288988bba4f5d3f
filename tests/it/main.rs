//! The broker as its users meet it: one private Postgres a process, a database a test, real sockets, in parallel.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a test reads rows that it wrote, and fails where one is not as expected; and its patience is real time"
)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adoption;
mod agent_metrics;
mod agents;
mod alerts;
mod apart;
mod at_rest;
mod auth;
mod bad_input;
mod bell;
mod borrowed_codes;
mod brokers;
mod cli;
mod client;
mod clusters;
mod concurrently;
mod container;
mod conversations;
mod cut_off;
mod dead;
mod dead_ops;
mod dead_rows;
mod dear;
mod deferred;
mod delivery;
mod doctor;
mod documents;
mod drift;
#[cfg(target_os = "linux")]
mod exec;
#[cfg(target_os = "linux")]
mod family;
mod foreign_settings;
mod forgetting;
mod goodbye;
mod grants;
mod habits;
mod harness;
mod held_sends;
mod hidden;
mod house;
mod kept_out;
mod leases;
#[cfg(target_os = "linux")]
mod leaving;
mod left;
mod lifecycle;
mod limits;
mod locks;
mod log_lines;
mod mesh;
mod meshes;
mod misuse;
mod notify_queue;
#[cfg(target_os = "linux")]
mod once_summary;
mod operators;
mod outage;
mod outcomes;
mod parameters;
mod ping;
mod plans;
mod policies;
mod presence;
mod process;
mod producers;
mod protocol;
mod reaper;
mod refusing;
mod rehearsal;
mod renewal;
mod require;
mod ruled;
mod scheduled;
mod schema;
mod sending;
mod settle;
mod sockets;
#[cfg(feature = "otel")]
mod spans;
mod standstill;
mod status;
mod sweeps;
mod terminal;
mod threats;
mod tls;
mod topics;
mod tour;
mod unrouted;
#[cfg(target_os = "linux")]
mod untold;
#[cfg(unix)]
mod variables;
mod views;
mod watch;
mod words;
