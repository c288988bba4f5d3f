//! The broker as its users meet it: one private Postgres a process, a database a test, real sockets, in parallel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adoption;
mod agents;
mod bad_input;
mod bell;
mod cli;
mod dead;
mod delivery;
mod doctor;
mod harness;
mod house;
mod lifecycle;
mod mesh;
mod outage;
mod outcomes;
mod plans;
mod presence;
mod protocol;
mod reaper;
mod schema;
mod sending;
mod tls;
