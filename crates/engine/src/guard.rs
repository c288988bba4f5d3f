//! The guard of the agents' port: how many may stand before the door, and how long a wrong token waits for its answer.
//!
//! Behind a platform's proxy or a NAT every agent comes from one address, honest or not. Therefore:
//!
//! - **Only failures are delayed.** A hello with a right token is never slowed, whatever failed from its address before:
//!   five thousand agents that reconnect at once are five thousand successes.
//! - **A client that waits for the answer to a wrong token has a place of another kind** and
//!   takes none of the places that a right token needs. When those places are taken too, the answer is
//!   `busy` and no line is logged, so a flood of wrong tokens costs a bounded number of lines. The delay need
//!   not protect the tokens: they have 256 random bits.
//! - **A success forgives no failure.** The success may be another client's of the same address: one valid
//!   token must not buy fast answers for wrong ones.
//!
//! Pure except for its lock, which is held for a few look-ups: the guard takes `now` and knows no socket.

mod failures;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use failures::Failures;

/// How long a client that finds no place is told to wait.
pub const BUSY_RETRY: Duration = Duration::from_millis(500);

/// How many connections may stand before the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// From all addresses together.
    pub total: usize,
    /// From one address.
    pub per_address: usize,
}

/// The address that tells one subscriber from another: the first 64 bits in IPv6, where a subscriber has a
/// whole /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl Source {
    /// The source that this address belongs to.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self(IpAddr::V6((u128::from(v6) >> 64 << 64).into())),
            v4 => Self(v4),
        }
    }
}

/// The connections that stand in one queue, by address. The map is bounded by the places: an address without a
/// connection is removed.
#[derive(Debug, Default)]
struct Standing {
    total: usize,
    by_source: HashMap<Source, usize>,
}

impl Standing {
    fn enter(&mut self, source: Source, places: Places) -> bool {
        let here = self.by_source.get(&source).copied().unwrap_or(0);
        if self.total >= places.total || here >= places.per_address {
            return false;
        }
        self.total += 1;
        self.by_source.insert(source, here + 1);
        true
    }

    fn leave(&mut self, source: Source) {
        self.total -= 1;
        match self.by_source.get_mut(&source) {
            Some(here) if *here > 1 => *here -= 1,
            _ => drop(self.by_source.remove(&source)),
        }
    }
}

#[derive(Debug, Default)]
struct Inside {
    /// The queue of connections that are not authenticated yet.
    unknown: Standing,
    /// The queue of clients that were refused and wait for the answer.
    refused: Standing,
    failures: Failures,
}

/// The guard of one port; clones share its state.
#[derive(Clone, Debug)]
pub struct Guard {
    places: Places,
    inside: Arc<Mutex<Inside>>,
}

/// The queue that a connection stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Unknown,
    Refused,
}

/// A place before the door; given back when this is dropped.
#[derive(Debug)]
pub struct Place {
    guard: Guard,
    source: Source,
    queue: Queue,
}

impl Guard {
    /// A guard with so many places, and as many again for refused clients.
    pub fn new(places: Places) -> Self {
        Self { places, inside: Arc::default() }
    }

    /// A place for a connection that is not authenticated yet; `None` if all are taken.
    pub fn admit(&self, address: IpAddr) -> Option<Place> {
        self.enter(Source::of(address), Queue::Unknown)
    }

    fn enter(&self, source: Source, queue: Queue) -> Option<Place> {
        let entered = self.standing(queue, |standing| standing.enter(source, self.places));
        entered.then(|| Place { guard: self.clone(), source, queue })
    }

    fn standing<T>(&self, queue: Queue, act: impl FnOnce(&mut Standing) -> T) -> T {
        let mut inside = self.inside();
        act(match queue {
            Queue::Unknown => &mut inside.unknown,
            Queue::Refused => &mut inside.refused,
        })
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// The client gave a wrong token. Returns a place of the other kind and how long the answer must wait there; `None` if
    /// too many wait already, and then the answer is `busy`.
    pub fn refuse(self, now: Instant) -> Option<(Self, Duration)> {
        let delay = self.guard.inside().failures.add(now, self.source);
        let waiting = self.guard.enter(self.source, Queue::Refused)?;
        Some((waiting, delay))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guard.standing(self.queue, |standing| standing.leave(self.source));
    }
}

#[cfg(test)]
mod tests;
