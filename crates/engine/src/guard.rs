//! The guard of the agents' port: how many may stand before the door, and how long a wrong token waits for its answer.
//!
//! Behind a platform's proxy or a NAT every agent comes from one address, the honest and the others. So:
//!
//! - **Only failures are delayed.** A hello with a right token is never slowed, whatever failed from its address before:
//!   five thousand agents that reconnect at once are five thousand successes.
//! - **Whoever waits for the answer to a wrong token stands aside**, in places of their own, and takes none of those
//!   that a right token needs. When these are taken too, the answer is `busy`, and no line is logged: a flood of wrong
//!   tokens costs a bounded number of lines, and the delay need not protect the tokens, which have 256 random bits.
//! - **A success forgives nothing.** It may be another's, and one valid token must not buy wrong ones their speed.
//!
//! Pure but for its lock, which is held for a few look-ups: it takes `now`, and knows no socket.

mod failures;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use failures::Failures;

/// What the client that finds no place is told to wait.
pub const BUSY_RETRY: Duration = Duration::from_millis(500);

/// How many may stand before the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// In all.
    pub total: usize,
    /// From one address.
    pub per_address: usize,
}

/// An address, as far as it says who somebody is: a subscriber of IPv6 has a whole /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl Source {
    /// Whose address it is.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) => Self(IpAddr::V6((u128::from(v6) >> 64 << 64).into())),
            v4 => Self(v4),
        }
    }
}

/// Those who stand somewhere, by address. Bounded by its places: an address without anybody is forgotten.
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
    /// Not authenticated yet.
    unknown: Standing,
    /// Refused, and waiting to be told.
    refused: Standing,
    failures: Failures,
}

/// The guard; clones share it.
#[derive(Clone, Debug)]
pub struct Guard {
    places: Places,
    inside: Arc<Mutex<Inside>>,
}

/// Which line somebody stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    Unknown,
    Refused,
}

/// A place before the door; given back when this is dropped.
#[derive(Debug)]
pub struct Place {
    guard: Guard,
    source: Source,
    line: Line,
}

impl Guard {
    /// With so many places, and as many again for those who were refused.
    pub fn new(places: Places) -> Self {
        Self { places, inside: Arc::default() }
    }

    /// A place for a connection that nobody knows yet; `None` where there is none.
    pub fn admit(&self, address: IpAddr) -> Option<Place> {
        self.enter(Source::of(address), Line::Unknown)
    }

    fn enter(&self, source: Source, line: Line) -> Option<Place> {
        let entered = self.standing(line, |standing| standing.enter(source, self.places));
        entered.then(|| Place { guard: self.clone(), source, line })
    }

    fn standing<T>(&self, line: Line, act: impl FnOnce(&mut Standing) -> T) -> T {
        let mut inside = self.inside();
        act(match line {
            Line::Unknown => &mut inside.unknown,
            Line::Refused => &mut inside.refused,
        })
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whoever stands here gave a wrong token: says how long the answer waits, and keeps this place for so long. `None`
    /// where too many wait already: then there is nothing more to say than `busy`.
    pub fn refuse(self, now: Instant) -> Option<(Self, Duration)> {
        let delay = self.guard.inside().failures.add(now, self.source);
        let aside = self.guard.enter(self.source, Line::Refused)?;
        Some((aside, delay))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.guard.standing(self.line, |standing| standing.leave(self.source));
    }
}

#[cfg(test)]
mod tests;
