//! The dispatcher, through what it is told and what it wants done.

mod links;
mod order;
mod outcomes;
mod ownership;
mod pushing;
mod refills;
mod sessions;
mod simulation;
pub(super) mod support;
mod waiting;
