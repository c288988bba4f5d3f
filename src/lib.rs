#![doc = include_str!("ARCHITECTURE.md")]

macro_rules! server {
    ($($module:ident)*) => { $(#[cfg(feature = "server")] pub mod $module;)* };
}

pub mod client;
pub mod message;
pub mod pace;
pub mod protocol;
server! {
    bell broker cli config devdb dispatch health http inbox leaser listener metrics open_files postgres presence publisher reaper refiller
    retry server session settler tailer
}
