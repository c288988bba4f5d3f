//! Two whole brokers in virtual time, by a seed: the real dispatcher and bell, and models of what stands around them: database,
//! tasks, links, agents, network. The faults are drawn first; then nothing but the seed decides.
//!
//! `POSTBELL_SIM_SEED=7 cargo test -p postbell-engine --test brokers one_seed -- --ignored --nocapture` shows a case.

#![allow(missing_docs, clippy::unwrap_used)]

mod agent;
mod asks;
mod broker;
mod cases;
mod check;
mod clocks;
mod database;
mod faults;
mod leaser;
mod leases;
mod link;
mod messages;
mod network;
mod order;
mod plants;
mod pollers;
mod producers;
mod rounds;
mod router;
mod routing;
mod schedule;
mod scripts;
mod session;
mod statements;
mod tail;
mod trigger;
mod what;
mod world;
mod writers;
