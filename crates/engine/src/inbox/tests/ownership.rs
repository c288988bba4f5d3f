//! One owner: nothing is pushed that may be another broker's.

use std::time::Duration;

use super::support::*;
use crate::inbox::event::{Effect, Event, Owner, Request};
use crate::inbox::{Entry, Tag};

fn not_acquired(owner: Option<Owner>) -> Event {
    Event::NotAcquired { inbox: inbox(), owner }
}

fn lapse(bench: &mut Bench) -> Vec<Effect> {
    let mut effects = bench.tell(Event::LeaseLapsed);
    effects.extend(bench.lease(Duration::from_secs(3)));
    effects
}

#[test]
fn nothing_is_pushed_before_a_round_that_began_after_the_lease_was_committed() {
    let mut bench = Bench::new();
    let started_at = bench.now;
    assert_eq!(acquires(&bench.join(1, None, 10)), 1);
    assert_eq!(pushed_ids(&bench.arrive(entries([1]))), NONE);
    bench.after(Duration::from_millis(1));
    assert!(bench.acquired(1).iter().any(|e| matches!(e, Effect::WakeTail)));
    let effects = bench.tell(Event::TailRound { started_at, snapshot: "early".into() });
    assert!(refill(&effects).is_none(), "that round may have begun before the lease");
    let lanes = refill(&bench.round()).expect("now it reads");
    assert!(lanes.iter().all(|lane| lane.above.0 == 0));
    assert_eq!(pushed_ids(&bench.refilled(&lanes, entries([1, 2]))), [1, 2]);
}

#[test]
fn an_inbox_of_another_broker_is_asked_for_again_while_somebody_wants_it() {
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    assert_eq!(acquires(&bench.tell(not_acquired(None))), 1);
    bench.leave(1, 0, false);
    assert!(!bench.dispatcher.is_empty(), "the answer may be yes");
    assert_eq!(acquires(&bench.tell(not_acquired(None))), 0);
    assert!(bench.dispatcher.is_empty());
}

#[test]
fn an_inbox_that_comes_when_nobody_wants_it_any_more_is_given_back() {
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    bench.leave(1, 0, false);
    assert_eq!(releases(&bench.acquired(1)), 1);
    bench.tell(Event::GivenBack(inbox()));
    assert!(bench.dispatcher.is_empty());
}

#[test]
fn after_a_lapse_nothing_is_pushed_until_the_inbox_is_known_to_be_ours() {
    let mut bench = Bench::ready(10);
    bench.lease(Duration::ZERO);
    bench.arrive(entries([1]));
    let effects = lapse(&mut bench);
    assert_eq!((acquires(&effects), pushed_ids(&effects).len()), (1, 0));
    assert_eq!(pushed_ids(&bench.arrive(entries([2]))), NONE);
    assert_eq!(pushed_ids(&bench.acquired(1)), [1, 2], "nobody had it in between");
}

#[test]
fn after_a_lapse_an_inbox_that_another_broker_had_is_read_anew() {
    let mut bench = Bench::ready(1);
    bench.arrive(entries([1, 2, 3]));
    lapse(&mut bench);
    assert_eq!(pushed_ids(&bench.acquired(2)), NONE);
    assert_eq!(bench.dispatcher.lanes_bytes(), 0);
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), NONE);
    let lanes = refill(&bench.round()).expect("reads anew");
    assert_eq!(pushed_ids(&bench.refilled(&lanes, entries([3, 4]))), [3]);
}

#[test]
fn an_inbox_that_was_loading_at_a_lapse_waits_for_a_round_of_its_new_epoch() {
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    bench.acquired(1);
    lapse(&mut bench);
    let started_at = bench.now;
    bench.after(Duration::from_millis(1));
    bench.acquired(2);
    let effects = bench.tell(Event::TailRound { started_at, snapshot: "another's".into() });
    assert!(refill(&effects).is_none());
    assert!(refill(&bench.round()).is_some());
}

#[test]
fn an_answer_that_may_be_from_before_a_lapse_is_not_believed() {
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    assert_eq!(acquires(&lapse(&mut bench)), 0, "one question at a time");
    assert_eq!(acquires(&bench.acquired(1)), 1);
    assert!(refill(&bench.round()).is_none());
    bench.own(3);
    assert_eq!(pushed_ids(&bench.arrive(entries([1]))), [1]);
}

#[test]
fn an_inbox_that_was_being_left_at_a_lapse_is_not_pushed_from_by_its_next_session() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1]));
    let settling = settles(&bench.leave(1, 0, false));
    lapse(&mut bench);
    bench.join(2, None, 10);
    bench.settled(settling);
    assert!(refill(&bench.round()).is_none(), "another broker may have it");
    assert_eq!(acquires(&bench.tell(not_acquired(None))), 1);
    bench.own(2);
}

#[test]
fn an_inbox_is_not_given_back_while_it_is_asked_for() {
    let mut bench = Bench::ready(10);
    lapse(&mut bench);
    assert_eq!(releases(&bench.leave(1, 0, false)), 0, "the question would take it again");
    assert_eq!(releases(&bench.acquired(1)), 1);
}

#[test]
fn an_inbox_that_was_lost_while_it_was_being_left_is_forgotten() {
    let mut bench = Bench::ready(10);
    lapse(&mut bench);
    bench.leave(1, 0, false);
    let effects = bench.tell(not_acquired(None));
    assert_eq!((acquires(&effects), releases(&effects)), (0, 0));
    assert!(bench.dispatcher.is_empty());
}

#[test]
fn what_was_pushed_before_the_inbox_was_lost_is_settled_all_the_same() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1]));
    lapse(&mut bench);
    bench.tell(not_acquired(None));
    let settling = settles(&bench.ack(1, &[1], Some("a")));
    assert_eq!(acked(&bench.settled(settling)), ["a"]);
    assert_eq!(bench.dispatcher.unsettled(), 0);
}

#[test]
fn an_inbox_is_given_back_when_an_outcome_of_what_no_session_had_is_written_too() {
    let mut bench = Bench::ready(1);
    let dead = bench.arrive(vec![Entry { body: None, ..entry(1) }]);
    assert_eq!(releases(&bench.leave(1, 0, false)), 0);
    assert_eq!(releases(&bench.settled(settles(&dead))), 1);
}

#[test]
fn an_inbox_is_given_back_when_both_outcomes_of_an_attempt_are_written() {
    let mut bench = Bench::ready(1);
    let release = |bench: &mut Bench, tag| {
        settles(&bench.request(1, Request::Release { tag: Tag(tag), delay: Duration::ZERO }))
    };
    bench.arrive(entries([1]));
    let first = release(&mut bench, 1);
    // The tail brings it before the news of the first.
    assert_eq!(pushed_ids(&bench.arrive(entries([1]))), [1]);
    let second = release(&mut bench, 2);
    bench.leave(1, 2, false);
    assert_eq!(releases(&bench.settled(first)), 0);
    assert_eq!(releases(&bench.settled(second)), 1);
}

#[test]
fn an_inbox_whose_lease_was_deleted_is_asked_for_and_read_anew() {
    let mut bench = Bench::ready(10);
    let effects = bench.tell(Event::LeasesLost(vec![inbox()]));
    assert_eq!(acquires(&effects), 1);
    assert_eq!(pushed_ids(&bench.arrive(entries([1]))), NONE, "another broker may have it");
    // Even under the same number: the tail passed rows over while the lease was gone.
    assert_eq!(pushed_ids(&bench.acquired(1)), NONE);
    let lanes = refill(&bench.round()).expect("reads anew");
    assert!(lanes.iter().all(|lane| lane.above.0 == 0));
    assert_eq!(pushed_ids(&bench.refilled(&lanes, entries([1, 2]))), [1, 2]);
}

#[test]
fn a_deleted_lease_of_an_inbox_that_is_given_back_or_asked_for_changes_nothing() {
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    assert_eq!(acquires(&bench.tell(Event::LeasesLost(vec![inbox()]))), 0, "it is asked for already");

    let mut bench = Bench::ready(10);
    assert_eq!(releases(&bench.leave(1, 0, false)), 1);
    assert_eq!(acquires(&bench.tell(Event::LeasesLost(vec![inbox()]))), 0);
    bench.tell(Event::GivenBack(inbox()));
    assert!(bench.dispatcher.is_empty());
}
