//! Every change of an inbox's ownership, walked in the dispatcher.

use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};

use super::support::*;
use crate::inbox::Epoch;
use crate::inbox::event::{Event, Owner};
use crate::inbox::owned::Ownership;

const EPOCH: i64 = 1;
const ACQUIRING: Ownership = Ownership::Acquiring;
const OWNED: Ownership = Ownership::Owned { epoch: Epoch(EPOCH) };
const LEAVING: Ownership = Ownership::Leaving { epoch: Epoch(EPOCH) };

/// A bench that remembers each change it sees.
struct Walk {
    bench: Bench,
    seen: Vec<(Ownership, Ownership)>,
}

impl Walk {
    /// With a session whose inbox is owned, and so many deliveries in its hands.
    fn owned(in_hand: i64) -> Self {
        let mut walk = Self { bench: Bench::new(), seen: Vec::new() };
        walk.join(1);
        walk.step(loading(walk.bench.now, EPOCH), |bench| drop(bench.acquired(EPOCH)));
        walk.step(OWNED, |bench| {
            let lanes = refill(&bench.round()).expect("reads");
            bench.refilled(&lanes, entries(1..=in_hand));
        });
        walk
    }

    fn join(&mut self, session: u64) {
        self.bench.join(session, None, 10);
    }

    fn state(&self) -> Option<Ownership> {
        self.bench.dispatcher.ownership(&inbox())
    }

    /// `change` turns the inbox to `to`.
    fn step(&mut self, to: Ownership, change: impl FnOnce(&mut Bench)) {
        let from = self.state().expect("there is one");
        change(&mut self.bench);
        assert_eq!(self.state(), Some(to), "from {from:?}");
        self.bench.dispatcher.check().expect("in the table of states");
        self.seen.push((from, to));
    }

    /// The lease may be lost, and then is refused.
    fn lose(&mut self) {
        self.bench.tell(Event::LeaseLapsed);
        self.step(ACQUIRING, |bench| drop(bench.tell(refused(None))));
    }

    fn expect_gone(mut self, change: impl FnOnce(&mut Bench)) -> Vec<(Ownership, Ownership)> {
        change(&mut self.bench);
        assert!(self.bench.dispatcher.is_empty(), "{:?}", self.state());
        self.seen
    }
}

fn loading(since: Instant, epoch: i64) -> Ownership {
    Ownership::Loading { since, epoch: Epoch(epoch) }
}

fn refused(owner: Option<Owner>) -> Event {
    Event::NotAcquired { inbox: inbox(), owner }
}

fn other_broker() -> Option<Owner> {
    Some(Owner { broker: uuid::Uuid::from_u128(2), address: "b:1".into(), certificate: None })
}

fn given_back() -> Vec<(Ownership, Ownership)> {
    let mut walk = Walk::owned(1);
    let mut outcomes = Vec::new();
    walk.step(LEAVING, |bench| outcomes = settles(&bench.leave(1, 1, false)));
    walk.step(Ownership::GivingBack, |bench| drop(bench.settled(outcomes)));
    // Who joins now waits for the lease to be given back, and asks anew.
    walk.join(2);
    assert_eq!(walk.state(), Some(Ownership::GivingBack));
    walk.step(ACQUIRING, |bench| drop(bench.tell(Event::GivenBack(inbox()))));
    walk.step(ACQUIRING, |bench| drop(bench.tell(refused(None))));
    let mut seen = walk.seen.clone();
    seen.extend(walk.expect_gone(|bench| {
        bench.leave(2, 0, false);
        bench.tell(refused(None));
    }));
    seen
}

fn read_anew() -> Vec<(Ownership, Ownership)> {
    let mut walk = Walk::owned(1);
    let now = walk.bench.now;
    walk.step(loading(now, EPOCH), |bench| drop(bench.tell(Event::TailBroken)));
    walk.step(loading(now, EPOCH), |bench| drop(bench.tell(Event::TailBroken)));
    let mut outcomes = Vec::new();
    walk.step(LEAVING, |bench| outcomes = settles(&bench.leave(1, 1, false)));
    // Who joins meanwhile does not find it owned: its lanes were not kept up.
    walk.step(loading(now, EPOCH), |bench| drop(bench.join(2, None, 10)));
    walk.bench.tell(Event::LeaseLapsed);
    walk.step(loading(now, 2), |bench| drop(bench.acquired(2)));
    walk.step(Ownership::Owned { epoch: Epoch(2) }, |bench| drop(bench.round()));
    walk.expect_gone(|bench| {
        bench.settled(outcomes);
        bench.leave(2, 0, false);
        bench.tell(Event::RefillFailed(inbox()));
        bench.tell(Event::GivenBack(inbox()));
    })
}

fn lost() -> Vec<(Ownership, Ownership)> {
    let mut seen = Vec::new();
    let mut walk = Walk::owned(1);
    walk.lose();
    walk.step(Ownership::Elsewhere, |bench| drop(bench.tell(refused(other_broker()))));
    walk.step(ACQUIRING, |bench| drop(bench.join(2, None, 10)));
    walk.step(Ownership::Elsewhere, |bench| drop(bench.tell(refused(other_broker()))));
    seen.extend(walk.seen.clone());
    walk.expect_gone(|bench| {
        let outcomes = settles(&bench.ack(1, &[1], None));
        bench.settled(outcomes);
    });

    let mut walk = Walk::owned(1);
    walk.bench.tell(Event::TailBroken);
    walk.lose();
    seen.extend(walk.seen);

    let mut walk = Walk::owned(1);
    let mut outcomes = Vec::new();
    walk.step(LEAVING, |bench| outcomes = settles(&bench.leave(1, 1, false)));
    walk.lose();
    seen.extend(walk.seen.clone());
    walk.expect_gone(|bench| {
        bench.settled(outcomes);
        bench.tell(refused(None));
    });

    let mut walk = Walk::owned(0);
    walk.bench.tell(Event::LeaseLapsed);
    walk.step(LEAVING, |bench| drop(bench.leave(1, 0, false)));
    walk.expect_gone(|bench| drop(bench.tell(refused(None))));
    seen
}

#[test]
fn every_change_of_the_table_happens() {
    let seen: Vec<_> = [given_back(), read_anew(), lost()].concat();
    let kinds = [
        ACQUIRING,
        Ownership::Elsewhere,
        loading(Instant::now(), EPOCH),
        OWNED,
        LEAVING,
        Ownership::GivingBack,
    ];
    let kind = |(from, to): &(Ownership, Ownership)| (discriminant(from), discriminant(to));
    let seen: Vec<(Discriminant<_>, Discriminant<_>)> = seen.iter().map(kind).collect();
    for from in kinds {
        for to in kinds.into_iter().filter(|to| from.may_become(*to)) {
            assert!(seen.contains(&kind(&(from, to))), "{from:?} never became {to:?}");
        }
    }
}

#[test]
fn an_inbox_that_comes_back_with_another_epoch_while_it_is_left_is_left_by_that_epoch() {
    let mut walk = Walk::owned(1);
    let mut outcomes = Vec::new();
    walk.step(LEAVING, |bench| outcomes = settles(&bench.leave(1, 1, false)));
    walk.bench.tell(Event::LeaseLapsed);
    walk.bench.after(Duration::from_millis(1));
    walk.bench.acquired(2);
    assert_eq!(walk.state(), Some(Ownership::Leaving { epoch: Epoch(2) }));
    assert_eq!(releases(&walk.bench.settled(outcomes)), 1);
}
