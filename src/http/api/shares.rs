//! Streams of events are few and last: nobody may have all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::flow::WATCHERS_MAX;
use crate::guard::Source;

/// Of one address, without a token. Behind a proxy that is everybody: those with a token have shares of their own.
const OF_AN_ADDRESS: usize = 8;
/// Of all that have no token.
const WITHOUT_TOKEN: usize = WATCHERS_MAX / 2;
/// Of one token.
const OF_A_TOKEN: usize = WATCHERS_MAX / 2;

const _: () = assert!(OF_AN_ADDRESS < WITHOUT_TOKEN && WITHOUT_TOKEN < WATCHERS_MAX && OF_A_TOKEN < WATCHERS_MAX);

/// Whose share a stream takes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sharer {
    /// Somebody without a token.
    Address(Source),
    /// The holder of a token: a viewer, an operator, an orchestrator.
    Token(String),
}

/// Who has how many; clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<Sharer, usize>>>);

/// One stream's; given back when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    shares: Shares,
    sharer: Sharer,
}

impl Shares {
    pub(super) fn enter(&self, sharer: Sharer) -> Option<Share> {
        let mut taken = self.taken();
        let without = taken.iter().filter(|(s, _)| matches!(s, Sharer::Address(_))).map(|(_, n)| *n).sum::<usize>();
        let mine = taken.entry(sharer.clone()).or_default();
        let is_full = match sharer {
            Sharer::Address(_) => *mine >= OF_AN_ADDRESS || without >= WITHOUT_TOKEN,
            Sharer::Token(_) => *mine >= OF_A_TOKEN,
        };
        if !is_full {
            *mine += 1;
            return Some(Share { shares: self.clone(), sharer });
        }
        taken.retain(|_, n| *n > 0);
        None
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<Sharer, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        match taken.get_mut(&self.sharer) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.remove(&self.sharer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_all_of_them() {
        let shares = Shares::default();
        let address = |n: u8| Sharer::Address(Source::of([10, 0, 0, n].into()));
        let fill = |sharer: &Sharer| -> Vec<Share> {
            std::iter::from_fn(|| shares.enter(sharer.clone())).take(WATCHERS_MAX + 1).collect()
        };
        let (one, two, three) = (fill(&address(1)), fill(&address(2)), fill(&address(3)));
        assert_eq!((one.len(), two.len(), three.len()), (OF_AN_ADDRESS, OF_AN_ADDRESS, 0));
        let viewer = fill(&Sharer::Token("viewer".to_owned()));
        assert_eq!(viewer.len(), OF_A_TOKEN);
        assert!(shares.enter(Sharer::Token("operator".to_owned())).is_some());
        drop((one, two, viewer));
        assert!(shares.taken().is_empty(), "all is given back");
    }
}
