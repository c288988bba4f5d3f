//! Messages with an ordering key.

use std::time::Duration;

use super::support::{
    Bench, DEADLINE, NONE, after_failures, entry, outcomes, pushed_ids, pushes, refill, settles, whole_refill,
};
use crate::inbox::event::{
    Effect, Event, KeyRefill, KeyRows, LaneRefill, LaneRows, Outcome, Refill, Request,
};
use crate::inbox::order::{KEY_PARKED_MAX, KEYS_MAX, PARKED_MAX};
use crate::inbox::{DeliveryId, Entry, Tag, Terms};
use postbell_client::message::Priority;

pub(super) fn keyed(id: i64, key: &str) -> Entry {
    let terms = Terms { ordering_key: Some(key.into()), ..Terms::default() };
    Entry { terms: Some(Box::new(terms)), ..entry(id) }
}

pub(super) fn fail(tag: u64, delay: u64) -> Request {
    Request::Fail { tag: Tag(tag), delay: Some(Duration::from_secs(delay)), reason: "no".into() }
}

#[test]
fn of_a_key_one_is_handled_at_a_time_and_the_others_pass_it() {
    let mut bench = Bench::ready(10);
    let rows = vec![keyed(1, "a"), keyed(2, "a"), entry(3), keyed(4, "b"), keyed(5, "a")];
    assert_eq!(pushed_ids(&bench.arrive(rows)), [1, 3, 4]);
    assert_eq!(pushed_ids(&bench.ack(1, &[3], None)), NONE, "another key's");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2], "before its commit: an ack is an end");
    let dead = bench.request(1, Request::Dead { tag: Tag(4), reason: "bad".into() });
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
    let again = after_failures(1, keyed(1, "a"));
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
    assert_eq!(pushed_ids(&bench.arrive(vec![after_failures(1, keyed(1, "a"))])), NONE);
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
    let again = after_failures(1, keyed(1, "a"));
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
    assert_eq!(pushed_ids(&bench.arrive(vec![after_failures(1, keyed(1, "a"))])), NONE, "its backoff");
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
    let lanes = refill(&bench.round()).expect("reads anew");
    let rows = bench.refilled(&lanes, vec![keyed(1, "a"), keyed(2, "a"), entry(3)]);
    assert_eq!(pushed_ids(&rows), [3], "the first is still with its agent");
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2]);
}

/// Key `a` has its first with session 1, and so many more that it has a lane of its own.
fn overflowing(window: u32) -> (Bench, i64) {
    let mut bench = Bench::ready(window);
    let last = KEY_PARKED_MAX as i64 + 2;
    assert_eq!(pushed_ids(&bench.arrive((1..=last).map(|id| keyed(id, "a")).collect())), [1]);
    (bench, last)
}

pub(super) fn key_refill(effects: &[Effect]) -> KeyRefill {
    let refill: Refill = whole_refill(effects).expect("reads on");
    assert!(refill.lanes.is_empty() && refill.passed.contains(&refill.keys[0].key), "{refill:?}");
    refill.keys[0].clone()
}

#[test]
fn a_key_with_many_that_wait_stops_no_other() {
    let (mut bench, last) = overflowing(10);
    assert_eq!(pushed_ids(&bench.arrive(vec![entry(last + 1), keyed(last + 2, "b")])), [last + 1, last + 2]);
    let far = (last + 3..last + 1_000).map(|id| keyed(id, "a")).collect();
    assert_eq!(pushed_ids(&bench.arrive(far)), NONE);
    assert!(bench.dispatcher.lanes_bytes() < 10_000, "they are in the table");
    assert_eq!(pushed_ids(&bench.arrive(vec![entry(5_000)])), [5_000]);
}

#[test]
fn a_key_is_read_on_by_itself_when_it_is_free_and_in_its_order() {
    let (mut bench, last) = overflowing(10);
    let acked = bench.ack(1, &[1], None);
    let asked = key_refill(&acked);
    assert_eq!((&*asked.key, asked.above.0), ("a", 0));
    // The key's first row is still in the table, for it is being settled.
    let rows = (1..=2).map(|id| keyed(id, "a")).collect();
    assert_eq!(pushed_ids(&bench.key_refilled(&asked, rows)), NONE, "it waits for the news");
    let asked = key_refill(&bench.settled(settles(&acked)));
    let rows = (2..2 + asked.rows as i64).map(|id| keyed(id, "a")).collect();
    assert_eq!(pushed_ids(&bench.key_refilled(&asked, rows)), [2]);
    let mut next = 3;
    let mut tag = 2;
    while next <= last {
        let effects = bench.ack(1, &[tag], None);
        let mut pushed = pushed_ids(&effects);
        if let Some(refill) = whole_refill(&effects) {
            let asked = refill.keys[0].clone();
            let rows = (asked.above.0 + 1..=last).take(asked.rows).map(|id| keyed(id, "a")).collect();
            pushed.extend(pushed_ids(&bench.key_refilled(&asked, rows)));
        }
        assert_eq!(pushed, [next]);
        (next, tag) = (next + 1, tag + 1);
    }
    bench.ack(1, &[tag], None);
    assert_eq!(pushed_ids(&bench.arrive(vec![keyed(last + 1, "a")])), [last + 1], "as any key");
}

#[test]
fn what_fails_first_of_an_overflowing_key_comes_again_first() {
    let (mut bench, _) = overflowing(10);
    let failed = bench.request(1, fail(1, 5));
    bench.settled(settles(&failed));
    assert_eq!(pushed_ids(&bench.arrive(vec![after_failures(1, keyed(1, "a"))])), NONE);
    assert!(whole_refill(&bench.after(Duration::from_secs(4))).is_none(), "its delay has not passed");
    let asked = key_refill(&bench.after(Duration::from_secs(1)));
    let rows = vec![after_failures(1, keyed(1, "a")), keyed(2, "a")];
    assert_eq!(pushed_ids(&bench.key_refilled(&asked, rows)), [1]);
}

#[test]
fn the_urgent_go_before_what_a_key_has_let_go() {
    let mut bench = Bench::ready(1);
    bench.arrive(vec![keyed(1, "a"), keyed(2, "a"), entry(3)]);
    bench.request(1, Request::Window(2));
    let urgent = Entry { lane: Priority::new(1).expect("1").lane(), ..entry(9) };
    bench.request(1, Request::Window(0));
    bench.arrive(vec![urgent]);
    bench.ack(1, &[1, 2], None);
    assert_eq!(pushed_ids(&bench.request(1, Request::Window(1))), [9]);
    assert_eq!(pushed_ids(&bench.ack(1, &[3], None)), [2]);
}

/// The rows of the table, for the refills.
type Table = std::collections::BTreeMap<i64, Entry>;

/// Answers what is asked of the table, and says what is pushed by that.
fn answered(bench: &mut Bench, table: &Table, effects: Vec<Effect>) -> Vec<(u64, i64)> {
    let (mut pushed, mut next) = (Vec::new(), effects);
    loop {
        pushed.extend(pushes(&next).into_iter().map(|(_, tag, id)| (tag, id)));
        let Some(refill) = whole_refill(&next) else { return pushed };
        let above = |above: DeliveryId| table.range(above.0 + 1..).map(|(_, row)| row);
        let is_passed = |row: &Entry| row.ordering_key().is_some_and(|key| refill.passed.contains(key));
        let lane = |l: &LaneRefill| {
            let rows = above(l.above).filter(|row| row.lane == l.lane && !is_passed(row));
            LaneRows { lane: l.lane, asked: l.rows, rows: rows.take(l.rows).cloned().collect() }
        };
        let key = |k: &KeyRefill| {
            let rows = above(k.above).filter(|row| row.ordering_key() == Some(&k.key));
            KeyRows { key: k.key.clone(), asked: k.rows, rows: rows.take(k.rows).cloned().collect() }
        };
        let lanes = refill.lanes.iter().map(lane).collect();
        let keys = refill.keys.iter().map(key).collect();
        next = bench.tell(Event::Refilled { inbox: super::support::inbox(), lanes, keys });
    }
}

/// Each of many keys fails at first: what is known of them is bounded, and the inbox goes on.
#[test]
fn many_keys_that_fail_cost_no_memory_and_no_other_waits_for_them() {
    let mut bench = Bench::ready(1);
    let mut table = Table::new();
    let (keys, mut most) = (KEYS_MAX as i64 * 20, 0);
    for id in (1..=keys).flat_map(|n| [n, n + keys]) {
        let row = keyed(id, &(id % keys).to_string());
        table.insert(id, row.clone());
        let effects = bench.arrive(vec![row]);
        let mut pushed = answered(&mut bench, &table, effects);
        let mut rounds = 0;
        while let Some((tag, id)) = pushed.pop() {
            rounds += 1;
            assert!(rounds < 1_000, "it goes round and round");
            let effects = bench.request(1, fail(tag, 3_600));
            let (written, dead) = match outcomes(&effects).pop() {
                Some((_, Outcome::Fail { .. })) => (Some(table[&id].clone()), false),
                _ => (None, true),
            };
            if dead {
                table.remove(&id);
            }
            let again: Vec<_> =
                written.into_iter().map(|row| after_failures(row.attempt.number(), row)).collect();
            again.iter().for_each(|row| drop(table.insert(id, row.clone())));
            let settling = settles(&effects);
            pushed.extend(answered(&mut bench, &table, effects));
            let effects = bench.settled(settling);
            pushed.extend(answered(&mut bench, &table, effects));
            bench.after(Duration::from_millis(1));
            let effects = bench.arrive(again);
            pushed.extend(answered(&mut bench, &table, effects));
        }
        most = most.max(bench.dispatcher.lanes_bytes());
    }
    assert!(most < (PARKED_MAX + 3 * KEYS_MAX) * 1_000, "{most}");
    let effects = bench.arrive(vec![entry(100_000)]);
    assert_eq!(answered(&mut bench, &table, effects).len(), 1);
}
