//! Which of its deliveries an agent that ends had in hand.

use std::time::Duration;

use super::support::*;
use crate::inbox::dispatcher::IN_COMPANY;
use crate::inbox::event::{Effect, Event, Outcome, Request};
use crate::inbox::{Entry, SessionId, Tag, Terms};

fn begun(tags: &[u64]) -> Request {
    Request::Begun { tags: tags.iter().copied().map(Tag).collect() }
}

/// The end of each: 0 given back, 1 failed, 2 dead; and whether it is said to have been in company.
fn blamed(effects: &[Effect]) -> Vec<(i64, u32, bool)> {
    let of = |(id, outcome): (i64, Outcome)| match outcome {
        Outcome::Release { .. } => (id, 0, false),
        Outcome::Spare { reason } => (id, 0, reason.starts_with(IN_COMPANY)),
        Outcome::Fail { reason, .. } => (id, 1, reason.starts_with(IN_COMPANY)),
        Outcome::Dead { reason, .. } => (id, 2, reason.starts_with(IN_COMPANY)),
        other => panic!("{other:?}"),
    };
    outcomes(effects).into_iter().map(of).collect()
}

fn in_company(id: i64, attempt: u32) -> Entry {
    let terms = Terms { in_company: true, ..Terms::default() };
    after_failures(attempt, Entry { terms: Some(Box::new(terms)), ..entry(id) })
}

#[test]
fn who_says_nothing_had_the_oldest_in_hand() {
    let mut bench = Bench::ready(32);
    bench.arrive(entries(1..=32));
    let effects = bench.leave(1, 32, false);
    assert_eq!(blamed(&effects)[0], (1, 1, false));
    assert!(blamed(&effects)[1..].iter().all(|(_, counted, _)| *counted == 0), "31 are innocent");
}

#[test]
fn who_says_what_it_has_begun_is_believed() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries(1..=4));
    bench.request(1, begun(&[2, 9]));
    assert_eq!(
        blamed(&bench.leave(1, 4, false)),
        [(1, 0, false), (2, 1, false), (3, 0, false), (4, 0, false)]
    );
    let mut bench = Bench::ready(10);
    bench.arrive(entries(1..=3));
    bench.request(1, begun(&[1]));
    bench.ack(1, &[1], None);
    assert_eq!(blamed(&bench.leave(1, 3, false)), [(2, 0, false), (3, 0, false)], "it had nothing in hand");
}

#[test]
fn of_several_in_hand_none_is_dead_by_that() {
    let mut bench = Bench::ready(10);
    bench.arrive(vec![entry(1), after_failures(ATTEMPTS_MAX - 1, entry(2)), entry(3)]);
    bench.request(1, begun(&[1, 2]));
    let effects = bench.leave(1, 3, false);
    assert_eq!(blamed(&effects), [(1, 1, true), (2, 0, true), (3, 0, false)]);
    let (_, Outcome::Fail { reason, .. }) = &outcomes(&effects)[0] else { panic!("{effects:?}") };
    assert_eq!(*reason, format!("{IN_COMPANY} (1)"));
}

#[test]
fn the_last_attempt_of_what_was_in_company_is_apart() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1]));
    let effects =
        bench.arrive(vec![in_company(2, ATTEMPTS_MAX - 1), in_company(3, ATTEMPTS_MAX - 1), entry(4)]);
    assert_eq!(pushed_ids(&effects), NONE, "the session has another");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2]);
    assert_eq!(pushed_ids(&bench.arrive(entries([5]))), NONE, "apart");
    assert_eq!(pushed_ids(&bench.ack(1, &[2], None)), [3], "the next of them");
    assert_eq!(pushed_ids(&bench.ack(1, &[3], None)), [4, 5]);
    assert_eq!(pushed_ids(&bench.arrive(vec![in_company(6, 0)])), [6], "not the last attempt");
}

#[test]
fn what_waits_apart_is_not_pushed_twice_if_the_tail_repeats_it() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1]));
    for _ in 0..2 {
        assert_eq!(pushed_ids(&bench.arrive(vec![in_company(2, ATTEMPTS_MAX - 1)])), NONE);
    }
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2]);
    assert_eq!(pushed_ids(&bench.ack(1, &[2], None)), NONE);
}

#[test]
fn what_waits_apart_is_forgotten_when_the_inbox_is_read_anew() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1]));
    bench.arrive(vec![in_company(2, ATTEMPTS_MAX - 1)]);
    bench.tell(Event::LeaseLapsed);
    bench.acquired(3);
    let lanes = refill(&bench.round()).expect("reads anew");
    // Another broker had the inbox, and has handled the second.
    bench.refilled(&lanes, entries([1]));
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), NONE);
}

#[test]
fn a_session_that_takes_nothing_more_gets_nothing_apart() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1]));
    bench.join(2, None, 0);
    bench.join(3, None, 10);
    bench.tell(Event::Drain(SessionId(3)));
    assert_eq!(pushed_ids(&bench.arrive(vec![in_company(2, ATTEMPTS_MAX - 1)])), NONE);
    assert_eq!(pushes(&bench.ack(1, &[1], None)), [(1, 2, 2)]);
}

#[test]
fn what_kills_its_agent_apart_is_dead() {
    let mut bench = Bench::ready(10);
    bench.join(2, None, 10);
    assert_eq!(pushes(&bench.arrive(vec![in_company(2, ATTEMPTS_MAX - 1)])).len(), 1);
    let effects = [bench.leave(1, 9, false), bench.leave(2, 9, false)].concat_effects();
    assert_eq!(blamed(&effects), [(2, 2, false)]);
}

#[test]
fn another_session_goes_on_while_one_is_emptied() {
    let mut bench = Bench::ready(1);
    bench.join(2, None, 10);
    bench.arrive(entries(1..=5));
    bench.arrive(vec![in_company(6, ATTEMPTS_MAX - 1)]);
    let pushed = pushes(&bench.arrive(entries([7, 8])));
    assert!(pushed.iter().all(|push| push.0 == 2) && pushed.len() == 2, "{pushed:?}");
}

#[test]
fn what_was_kept_apart_is_read_again_when_the_inbox_is_read_anew() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1]));
    bench.arrive(vec![in_company(2, ATTEMPTS_MAX - 1)]);
    bench.tell(Event::TailBroken);
    let lanes = refill(&bench.round()).expect("reads anew");
    assert_eq!(pushed_ids(&bench.refilled(&lanes, vec![entry(1), in_company(2, ATTEMPTS_MAX - 1)])), NONE);
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2]);
}

#[test]
fn no_extension_holds_a_delivery_longer_than_the_role_allows() {
    let mut bench = Bench::ready(1);
    bench.arrive(entries([1]));
    let week = Duration::from_secs(7 * 86_400);
    for _ in 0..10 {
        bench.request(1, Request::Extend { tag: Tag(1), by: week });
        bench.after(HOLD / 11);
    }
    assert_eq!(outcomes(&bench.after(HOLD / 11 + DEADLINE)).len(), 1);
}

trait Concat {
    fn concat_effects(self) -> Vec<Effect>;
}

impl<const N: usize> Concat for [Vec<Effect>; N] {
    fn concat_effects(self) -> Vec<Effect> {
        self.into_iter().flatten().collect()
    }
}
