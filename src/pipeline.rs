//! A message's way through the broker, a task for each stage.
//!
//! `listener` hears rings; `router` makes the deliveries that producers leave; `tailer` reads what is new; `refiller` reads what waited; `dispatch` runs the engine's dispatcher; `settler` writes
//! outcomes; `publisher` inserts what agents send; `dead_letters` answers about what failed; `reaper` moves what is due and removes
//! what is over; `leaser` keeps the leases of inboxes; `rest` tells whether the reaper may have anything to do.
//!
//! A task must never know a socket, nor another task: tasks meet in channel types. `broker` starts them, `agents` talk to them.

pub(crate) mod alarm;
pub(crate) mod dead_letters;
pub(crate) mod dispatch;
pub(crate) mod leaser;
pub(crate) mod listener;
pub mod publisher;
pub(crate) mod reaper;
pub(crate) mod refiller;
pub(crate) mod rest;
pub(crate) mod router;
pub(crate) mod settler;
pub(crate) mod tailer;
pub(crate) mod traffic;
