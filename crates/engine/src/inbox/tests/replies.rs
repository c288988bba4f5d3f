//! Replies to a process: preferred while it is here, and in nobody's way.

use super::support::*;
use crate::inbox::dispatcher::{REPLIES_MAX, REPLIES_WAITING_MAX, SESSION_BYTES_MAX};
use crate::inbox::event::{Effect, Outcome, Settle};
use crate::inbox::owned::{OLDEST_EVERY, RELANES_MAX};
use crate::inbox::{Entry, Terms};
use postbell_client::message::{Priority, REPLIES};

fn reply(id: i64, instance: &str) -> Entry {
    let terms = Terms { instance: Some(instance.into()), ..Terms::default() };
    Entry { lane: REPLIES, terms: Some(Box::new(terms)), ..entry(id) }
}

fn urgent(id: i64, instance: &str) -> Entry {
    let priority = Priority::new(1).expect("1");
    let terms = Terms { instance: Some(instance.into()), priority, ..Terms::default() };
    Entry { terms: Some(Box::new(terms)), ..reply(id, instance) }
}

fn relanes(effects: &[Effect]) -> Vec<Settle> {
    let is_relane = |settle: &Settle| matches!(settle.outcome, Outcome::Relane { .. });
    settles(effects).into_iter().filter(is_relane).collect()
}

/// As the tail brings what was written to another lane.
fn in_its_lane(entry: Entry) -> Entry {
    Entry { lane: entry.ordinary_lane(), ..entry }
}

/// Session 1, which has asked.
fn asker(window: u32) -> Bench {
    let mut bench = Bench::new();
    bench.join(1, Some("asker"), window);
    bench.own(1);
    bench
}

#[test]
fn a_reply_goes_to_who_asked_beside_its_window() {
    let mut bench = asker(1);
    bench.join(2, Some("other"), 5);
    assert_eq!(pushes(&bench.arrive(vec![entry(1), reply(2, "asker")])).len(), 2);
    let filled = bench.arrive(vec![entry(3), reply(4, "asker"), reply(5, "other")]);
    let of = |id| pushes(&filled).into_iter().find(|p| p.2 == id).map(|p| p.0);
    assert_eq!((of(4), of(5)), (Some(1), Some(2)));
}

#[test]
fn a_reply_to_a_process_that_is_gone_goes_to_another_that_has_room() {
    let mut bench = Bench::ready(1);
    let effects = bench.arrive(vec![reply(1, "gone"), reply(2, "gone")]);
    assert_eq!(pushed_ids(&effects), [1], "nothing goes before it");
    let moved = relanes(&effects);
    assert_eq!(moved[0].outcome, Outcome::Relane { lane: entry(2).lane });
    bench.settled(moved);
    assert_eq!(pushed_ids(&bench.arrive(vec![in_its_lane(reply(2, "gone"))])), NONE, "the window");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2]);
}

/// A hundred a second, to a process that was never there, and all of them before priority 1: so it was.
#[test]
fn what_is_no_reply_to_anybody_here_queues_as_its_priority_says() {
    let mut bench = Bench::ready(1);
    let mut effects = bench.arrive(vec![entry(1)]);
    bench.arrive(vec![with_priority(2, 1)]);
    effects.extend(bench.arrive((3..=100).map(|id| reply(id, "gone")).collect()));
    assert_eq!(pushed_ids(&effects), [1]);
    assert_eq!(relanes(&effects).len(), 98, "they leave the lane of replies");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2], "the urgent first");
    bench.settled(relanes(&effects));
    bench.arrive((3..=100).map(|id| in_its_lane(reply(id, "gone"))).collect());
    bench.arrive(vec![with_priority(101, 4)]);
    assert_eq!(pushed_ids(&bench.ack(1, &[2], None)), [101]);
    assert_eq!(pushed_ids(&bench.ack(1, &[3], None)), [3], "then by age");
}

#[test]
fn an_urgent_one_to_nobody_goes_where_its_priority_says() {
    let mut bench = Bench::ready(1);
    bench.arrive(vec![entry(1), entry(2)]);
    let moved = relanes(&bench.arrive(vec![urgent(3, "gone")]));
    assert_eq!(moved[0].outcome, Outcome::Relane { lane: 1 });
}

/// A flood for processes that are gone does not stand between an answer and who asked.
#[test]
fn a_reply_passes_a_flood_of_replies_to_nobody() {
    let mut bench = asker(1);
    bench.arrive(vec![entry(1)]);
    let flood = RELANES_MAX as i64 + 100;
    let mut effects = bench.arrive((2..=flood).map(|id| reply(id, "gone")).collect());
    assert_eq!(relanes(&effects).len(), RELANES_MAX, "no more at once");
    effects.extend(bench.arrive(vec![reply(10_000, "asker")]));
    assert_eq!(pushed_ids(&effects), [10_000]);
    let rest = relanes(&bench.settled(relanes(&effects)));
    assert_eq!(rest.len() as i64, flood - 1 - RELANES_MAX as i64);
}

#[test]
fn replies_beside_the_window_are_bounded_and_take_none_of_it() {
    let mut bench = asker(2);
    let most = i64::from(REPLIES_MAX);
    let replies = (1..=most + 3).map(|id| reply(id, "asker")).collect();
    assert_eq!(pushed_ids(&bench.arrive(replies)), (1..=most).collect::<Vec<_>>());
    assert_eq!(pushed_ids(&bench.arrive(vec![entry(1_000)])), [1_000], "the window is its own");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [most + 1]);
    assert_eq!(pushed_ids(&bench.arrive(entries([1_001, 1_002]))), [1_001]);
    assert_eq!(pushed_ids(&bench.ack(1, &[most as u64 + 1], None)), [1_002]);
}

/// One handler: what it has is handled in turn, so of sixteen one must be no reply.
#[test]
fn a_flood_of_replies_leaves_others_their_share() {
    let mut bench = asker(1);
    bench.arrive(entries(1..=200));
    let mut id = 1_000;
    let mut queue: Vec<(u64, i64)> = vec![(1, 1)];
    let mut handled = Vec::new();
    while handled.len() < 320 {
        let mut effects = bench.arrive((0..20).map(|n| reply(id + n, "asker")).collect());
        id += 20;
        let (tag, first) = queue.remove(0);
        handled.push(first);
        effects.extend(bench.ack(1, &[tag], None));
        queue.extend(pushes(&effects).into_iter().map(|(_, tag, id)| (tag, id)));
    }
    let ordinary = handled.iter().filter(|id| **id < 1_000).count();
    assert!(ordinary >= 320 / 16 - 4, "{ordinary} of 320");
}

#[test]
fn replies_that_wait_for_room_are_bounded_and_hold_up_no_other_process() {
    let mut bench = asker(1);
    bench.join(2, Some("other"), 1);
    let flood = REPLIES_MAX as i64 + REPLIES_WAITING_MAX as i64 + 50;
    let effects = bench.arrive((1..=flood).map(|id| reply(id, "asker")).collect());
    assert_eq!(pushed_ids(&effects).len(), REPLIES_MAX as usize);
    assert_eq!(relanes(&effects).len(), 50);
    assert_eq!(pushes(&bench.arrive(vec![reply(flood + 1, "other")])).first().map(|p| p.0), Some(2));
}

#[test]
fn what_was_written_to_its_lane_goes_to_its_process_if_that_has_room() {
    let mut bench = asker(1);
    bench.join(2, Some("other"), 10);
    let row = |id| in_its_lane(reply(id, "asker"));
    assert_eq!(pushes(&bench.arrive(vec![row(1)])), [(1, 1, 1)], "though the other is first in turn");
    assert_eq!(pushes(&bench.arrive(vec![row(2)])), [(2, 1, 2)]);
}

#[test]
fn while_others_wait_there_are_fifteen_replies_for_each_place_of_the_window() {
    let replies = || (100..200).map(|id| reply(id, "asker")).collect();
    let mut bench = asker(1);
    assert_eq!(pushed_ids(&bench.arrive(entries([1, 2]))), [1]);
    assert_eq!(pushed_ids(&bench.arrive(replies())).len(), 15);
    let mut bench = asker(0);
    assert_eq!(pushed_ids(&bench.arrive(entries([1]))), NONE);
    assert_eq!(
        pushed_ids(&bench.arrive(replies())).len(),
        REPLIES_MAX as usize,
        "there is no place to share"
    );
}

#[test]
fn replies_have_the_bound_in_bytes_for_themselves() {
    let mut bench = asker(10);
    let sized = |id, bytes| Entry { body: with_size(id, bytes).body, ..reply(id, "asker") };
    let large = SESSION_BYTES_MAX * 3 / 4;
    assert_eq!(pushed_ids(&bench.arrive(vec![sized(1, large)])), [1]);
    assert_eq!(pushed_ids(&bench.arrive(vec![sized(2, 2)])), [2]);
    assert_eq!(pushed_ids(&bench.arrive(vec![sized(3, large)])), NONE);
    assert_eq!(pushed_ids(&bench.arrive(entries([4]))), [4]);
    assert_eq!(pushed_ids(&bench.arrive(vec![with_size(5, large)])), [5], "the window has its own");
}

#[test]
fn the_turn_of_the_oldest_is_for_no_reply() {
    let mut bench = asker(100);
    let most = i64::from(REPLIES_MAX);
    bench.arrive((1..=most + 2).map(|id| reply(id, "asker")).collect());
    let others = 1_000..=1_000 + OLDEST_EVERY as i64;
    assert_eq!(pushed_ids(&bench.arrive(entries(others.clone()))), others.collect::<Vec<_>>());
}

#[test]
fn a_reply_to_nobody_here_is_next_by_its_priority_and_then_by_its_age() {
    for (other, first) in [(entry(1), 1), (entry(3), 2), (with_priority(3, 1), 3), (with_priority(1, 9), 2)] {
        let mut bench = Bench::ready(1);
        assert_eq!(pushed_ids(&bench.arrive(vec![other, reply(2, "gone")])), [first]);
    }
}
