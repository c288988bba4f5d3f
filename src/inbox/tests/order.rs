//! Messages with an ordering key, and replies to a process.

use std::time::Duration;

use super::support::{Bench, DEADLINE, NONE, entry, outcomes, pushed_ids, pushes, settles};
use crate::inbox::dispatcher::REPLIES_MAX;
use crate::inbox::event::{Event, Outcome, Request};
use crate::inbox::{Entry, Terms};
use crate::message::REPLIES;

fn keyed(id: i64, key: &str) -> Entry {
    let terms = Terms { ordering_key: Some(key.into()), ..Terms::default() };
    Entry { terms: Some(Box::new(terms)), ..entry(id) }
}

fn reply(id: i64, instance: &str) -> Entry {
    let terms = Terms { instance: Some(instance.into()), ..Terms::default() };
    Entry { lane: REPLIES, terms: Some(Box::new(terms)), ..entry(id) }
}

fn fail(tag: u64, delay: u64) -> Request {
    Request::Fail { tag, delay: Some(Duration::from_secs(delay)), reason: "no".into() }
}

#[test]
fn of_a_key_one_is_handled_at_a_time_and_the_others_pass_it() {
    let mut bench = Bench::ready(10);
    let rows = vec![keyed(1, "a"), keyed(2, "a"), entry(3), keyed(4, "b"), keyed(5, "a")];
    assert_eq!(pushed_ids(&bench.arrive(rows)), [1, 3, 4]);
    assert_eq!(pushed_ids(&bench.ack(1, &[3], None)), NONE, "another key's");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2], "before its commit: an ack is an end");
    let dead = bench.request(1, Request::Dead { tag: 4, reason: "bad".into() });
    assert_eq!(pushed_ids(&dead), [5], "a dead letter too");
}

#[test]
fn what_failed_goes_again_before_the_others_and_after_its_delay() {
    let mut bench = Bench::ready(10);
    assert_eq!(pushed_ids(&bench.arrive(vec![keyed(1, "a"), keyed(2, "a"), keyed(3, "a")])), [1]);
    let failed = bench.request(1, fail(1, 5));
    let Some((1, Outcome::Fail { delay, .. })) = outcomes(&failed).pop() else { panic!("{failed:?}") };
    assert_eq!(delay, Duration::ZERO, "ready in the table, for whoever owns the inbox next");
    bench.settled(settles(&failed));
    let again = Entry { attempt: 1, ..keyed(1, "a") };
    assert_eq!(pushed_ids(&bench.arrive(vec![again, keyed(4, "a")])), NONE, "5 s have not passed");
    assert_eq!(pushed_ids(&bench.after(Duration::from_secs(4))), NONE);
    assert_eq!(pushed_ids(&bench.after(Duration::from_secs(1))), [1]);
    assert_eq!(pushed_ids(&bench.ack(1, &[2], None)), [2]);
}

/// Nobody has room when it comes back: it must not be behind the others of its key once somebody has.
#[test]
fn what_failed_is_before_the_others_also_where_it_comes_back_to_a_full_window() {
    let mut bench = Bench::ready(2);
    let rows = vec![keyed(1, "a"), keyed(2, "a"), entry(3), entry(4)];
    assert_eq!(pushed_ids(&bench.arrive(rows)), [1, 3]);
    let failed = bench.request(1, fail(1, 0));
    assert_eq!(pushed_ids(&failed), [4], "the window is full again");
    bench.settled(settles(&failed));
    assert_eq!(pushed_ids(&bench.arrive(vec![Entry { attempt: 1, ..keyed(1, "a") }])), NONE);
    assert_eq!(pushed_ids(&bench.ack(1, &[2], None)), [1]);
}

#[test]
fn a_round_that_began_before_the_commit_says_nothing_of_what_failed() {
    let mut bench = Bench::ready(10);
    bench.arrive(vec![keyed(1, "a"), keyed(2, "a")]);
    let failed = bench.request(1, fail(1, 0));
    let began = bench.now;
    bench.after(Duration::from_millis(1));
    bench.settled(settles(&failed));
    let early = bench.tell(Event::TailRound { started_at: began, snapshot: "9".into() });
    assert_eq!(pushed_ids(&early), NONE);
    bench.after(Duration::from_millis(1));
    let again = Entry { attempt: 1, ..keyed(1, "a") };
    assert_eq!(pushed_ids(&bench.arrive(vec![again])), [1], "it is there: the key is its");
}

#[test]
fn what_failed_and_was_then_removed_by_somebody_else_does_not_hold_up_its_key() {
    let mut bench = Bench::ready(10);
    bench.arrive(vec![keyed(1, "a"), keyed(2, "a")]);
    let failed = bench.request(1, fail(1, 0));
    bench.settled(settles(&failed));
    assert_eq!(pushed_ids(&bench.round()), [2]);
}

#[test]
fn a_deadline_and_a_disconnect_free_a_key_as_a_nack_does() {
    let mut bench = Bench::ready(10);
    bench.join(2, None, 10);
    bench.arrive(vec![keyed(1, "a"), keyed(2, "a")]);
    let overdue = bench.after(DEADLINE);
    assert_eq!(outcomes(&overdue).len(), 1);
    bench.settled(settles(&overdue));
    bench.after(Duration::from_millis(1));
    assert_eq!(pushed_ids(&bench.arrive(vec![Entry { attempt: 1, ..keyed(1, "a") }])), NONE, "its backoff");
    let wait = bench.dispatcher.next_wake().expect("a delay") - bench.now;
    let again = pushes(&bench.after(wait));
    let [(session, tag, 1)] = again[..] else { panic!("{again:?}") };
    let left = bench.leave(session, tag, false);
    assert_eq!((outcomes(&left).len(), pushed_ids(&left)), (1, vec![]), "the second waits for the first");
}

#[test]
fn keys_go_on_when_an_inbox_is_read_anew() {
    let mut bench = Bench::ready(10);
    bench.arrive(vec![keyed(1, "a"), keyed(2, "a")]);
    bench.tell(Event::TailBroken);
    let lanes = super::support::refill(&bench.round()).expect("reads anew");
    let rows = bench.refilled(&lanes, vec![keyed(1, "a"), keyed(2, "a"), entry(3)]);
    assert_eq!(pushed_ids(&rows), [3], "the first is still with its agent");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2]);
}

#[test]
fn a_reply_goes_to_who_asked_beside_its_window() {
    let mut bench = Bench::new();
    bench.join(1, Some("asker"), 1);
    bench.own(1);
    bench.join(2, Some("other"), 5);
    assert_eq!(pushes(&bench.arrive(vec![entry(1), reply(2, "asker")])).len(), 2);
    let filled = bench.arrive(vec![entry(3), reply(4, "asker"), reply(5, "other")]);
    let of = |id| pushes(&filled).into_iter().find(|p| p.2 == id).map(|p| p.0);
    assert_eq!((of(4), of(5)), (Some(1), Some(2)));
}

#[test]
fn a_reply_to_a_process_that_is_gone_goes_to_another_that_has_room() {
    let mut bench = Bench::ready(1);
    assert_eq!(pushed_ids(&bench.arrive(vec![reply(1, "gone"), reply(2, "gone")])), [1]);
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2]);
}

#[test]
fn replies_beside_the_window_are_bounded() {
    let mut bench = Bench::new();
    bench.join(1, Some("asker"), 2);
    bench.own(1);
    let most = 2 + i64::from(REPLIES_MAX);
    let replies = (1..=most + 3).map(|id| reply(id, "asker")).collect();
    assert_eq!(pushed_ids(&bench.arrive(replies)), (1..=most).collect::<Vec<_>>());
    assert_eq!(pushed_ids(&bench.arrive(vec![entry(1_000)])), NONE, "the window is full of replies");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [most + 1]);
}

#[test]
fn no_more_than_a_bound_waits_for_its_turn() {
    use crate::inbox::order::PARKED_MAX;
    let mut bench = Bench::ready(10);
    let mut effects = Vec::new();
    for id in 1..=PARKED_MAX as i64 + 10 {
        effects.extend(bench.arrive(vec![keyed(id, "a")]));
    }
    effects.extend(bench.arrive(vec![entry(100_000)]));
    assert_eq!(pushed_ids(&effects), [1], "also what has no key waits then");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2]);
    assert!(bench.dispatcher.lanes_bytes() > 0);
}
