//! Postbell: a message broker for agents that share a Postgres database.
#![doc = include_str!("ARCHITECTURE.md")]

pub mod inbox;
pub mod message;
pub mod protocol;
pub mod retry;
