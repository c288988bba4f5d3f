//! The broker as its users meet it: a real Postgres, real sockets, a database a test, all in parallel.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod bell;
mod delivery;
mod harness;
mod house;
mod lifecycle;
mod outcomes;
mod presence;
mod protocol;
mod sending;
