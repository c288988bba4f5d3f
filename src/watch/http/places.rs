//! Places for connections, counted by holder, such as an address. The holder with the most places gives them up
//! first.
//!
//! Pure but for a lock, which is held for one look at every place of a kind at most.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Notified when a place is taken away, so that its connection ends.
pub(super) type Cut = Arc<Notify>;

/// The treatment of a newcomer when all places are taken and no other holder has more of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WhenFull {
    /// The newcomer takes its own oldest place, or else the oldest of all: an honest request is short, and the
    /// latest.
    TakeOldest,
    /// The newcomer is refused.
    Refuse,
}

/// Places of one kind; clones share them.
#[derive(Debug)]
pub(super) struct Places<K: Key> {
    max: usize,
    when_full: WhenFull,
    inside: Arc<Mutex<Inside<K>>>,
}

/// The value that tells holders apart.
pub(super) trait Key: Clone + Eq + Hash {}
impl<K: Clone + Eq + Hash> Key for K {}

#[derive(Debug)]
struct Inside<K> {
    last: u64,
    /// By age, oldest first.
    held: BTreeMap<u64, (K, Cut)>,
    of: HashMap<K, usize>,
}

impl<K: Key> Clone for Places<K> {
    fn clone(&self) -> Self {
        Self { max: self.max, when_full: self.when_full, inside: self.inside.clone() }
    }
}

/// A place, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place<K: Key> {
    places: Places<K>,
    id: u64,
}

impl<K: Key> Places<K> {
    pub(super) fn new(max: usize, when_full: WhenFull) -> Self {
        let inside = Inside { last: 0, held: BTreeMap::new(), of: HashMap::new() };
        Self { max: max.max(1), when_full, inside: Arc::new(Mutex::new(inside)) }
    }

    /// Takes a place, from another connection if need be; `None` if the newcomer is refused. `cut` is notified when
    /// the place is taken away.
    pub(super) fn enter(&self, holder: K, cut: &Cut) -> Option<Place<K>> {
        let mut inside = self.inside();
        if inside.held.len() >= self.max {
            let oldest = inside.who_gives_up(&holder, self.when_full)?;
            inside.leave(oldest)?.notify_one();
        }
        inside.last += 1;
        let id = inside.last;
        inside.held.insert(id, (holder.clone(), cut.clone()));
        *inside.of.entry(holder).or_default() += 1;
        Some(Place { places: self.clone(), id })
    }

    fn inside(&self) -> MutexGuard<'_, Inside<K>> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Key> Inside<K> {
    fn who_gives_up(&self, holder: &K, when_full: WhenFull) -> Option<u64> {
        let mine = self.of.get(holder).copied().unwrap_or(0);
        let (greediest, most) = self.of.iter().max_by_key(|(_, n)| **n)?;
        let oldest_of = |whose: &K| self.held.iter().find(|(_, (k, _))| k == whose).map(|(id, _)| *id);
        match when_full {
            // Even with one more place here, the other holder has at least as many.
            _ if *most > mine + 1 => oldest_of(greediest),
            WhenFull::Refuse => None,
            WhenFull::TakeOldest if mine > 0 => oldest_of(holder),
            WhenFull::TakeOldest => self.held.keys().next().copied(),
        }
    }

    fn leave(&mut self, id: u64) -> Option<Cut> {
        let (holder, cut) = self.held.remove(&id)?;
        match self.of.get_mut(&holder) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(self.of.remove(&holder)),
        }
        Some(cut)
    }
}

impl<K: Key> Drop for Place<K> {
    fn drop(&mut self) {
        // Already removed if the place was taken away.
        self.places.inside().leave(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postbell_engine::guard::Source;

    fn source(n: u8) -> Source {
        Source::of([127, 0, 0, n].into())
    }

    fn is_cut(cut: &Cut) -> bool {
        use futures_util::FutureExt;
        cut.notified().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_of_whoever_has_most_gives_up_its_place() {
        let places = Places::new(4, WhenFull::Refuse);
        let cuts: Vec<Cut> = (0..6).map(|_| Cut::default()).collect();
        let held: Vec<_> = cuts[..4].iter().map(|cut| places.enter(source(1), cut).expect("room")).collect();
        assert!(places.enter(source(1), &cuts[4]).is_none(), "its own places are all there are");
        let other = places.enter(source(2), &cuts[4]).expect("another address is let in");
        assert!(is_cut(&cuts[0]) && !is_cut(&cuts[1]));
        let second = places.enter(source(2), &cuts[5]).expect("two of each");
        assert!(is_cut(&cuts[1]) && places.enter(source(2), &Cut::default()).is_none());
        drop((other, second, held));
        assert!(places.inside().held.is_empty() && places.inside().of.is_empty(), "all is given back");
    }

    #[test]
    fn where_requests_are_short_the_newest_is_always_let_in() {
        let places = Places::new(2, WhenFull::TakeOldest);
        let cuts: Vec<Cut> = (0..5).map(|_| Cut::default()).collect();
        let _held: Vec<_> = cuts.iter().map(|cut| places.enter(source(1), cut).expect("a place")).collect();
        assert!(cuts[..3].iter().all(is_cut) && !cuts[3..].iter().any(is_cut));
        // One place each: nobody has more than a share, and still a newcomer is answered.
        let (a, b) = (Cut::default(), Cut::default());
        let _a = places.enter(source(2), &a).expect("a place");
        let _b = places.enter(source(3), &b).expect("a place");
        assert!(cuts[3..].iter().any(is_cut));
    }

    #[test]
    fn a_subscriber_of_ipv6_is_one() {
        let places = Places::new(1, WhenFull::Refuse);
        let of = |address: &str| Source::of(address.parse().expect("an address"));
        let _held = places.enter(of("2001:db8::1"), &Cut::default()).expect("room");
        assert_eq!(of("2001:db8::1"), of("2001:db8:0:0:ffff::2"));
        assert!(places.enter(of("2001:db8::2"), &Cut::default()).is_none());
    }
}
