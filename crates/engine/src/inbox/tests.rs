//! The dispatcher, through what it is told and what it wants done.

mod blame;
mod changes;
mod entries;
mod links;
mod order;
mod outcomes;
mod ownership;
mod parking;
mod pushing;
mod refills;
mod replies;
mod sessions;
mod simulation;
pub(super) mod support;
mod waiting;
