#![doc = include_str!("../README.md")]

pub mod bell;
pub mod bucket;
pub mod guard;
pub mod inbox;
pub mod retry;
pub mod router;
