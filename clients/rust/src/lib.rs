#![doc = include_str!("../README.md")]

#[cfg(feature = "tls")]
pub mod certificates;
#[cfg(feature = "client")]
mod client;
pub mod message;
pub mod protocol;

#[cfg(feature = "client")]
pub use client::*;
