//! A message's way through the broker, a task for each stage.
//!
//! `listener` hears rings; `tailer` reads what is new; `refiller` reads what waited; `dispatch` runs the engine's dispatcher; `settler` writes
//! outcomes; `publisher` inserts what agents send; `dead_letters` answers about what failed; `reaper` moves what is due and removes
//! what is over; `leaser` keeps the leases of inboxes.
//!
//! A task must never know a socket, nor another task: tasks meet in channel types. `broker` starts them, `agents` talk to them.

pub mod alarm;
pub mod dead_letters;
pub mod dispatch;
pub mod leaser;
pub mod listener;
pub mod publisher;
pub mod reaper;
pub mod refiller;
pub mod settler;
pub mod tailer;
