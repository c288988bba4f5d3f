//! Deliveries that wait for another one of their key: which goes next, and how many are held.

use std::time::Duration;

use super::order::{fail, key_refill, keyed};
use super::support::*;
use crate::inbox::dispatcher::SESSION_BYTES_MAX;
use crate::inbox::event::{Effect, Event, Request};
use crate::inbox::order::{KEY_PARKED_MAX, KEYS_MAX, PARKED_BYTES_MAX, PARKED_MAX};
use crate::inbox::{DeliveryId, Entry, Tag, Unfit};

fn in_lane_of(priority: i64, entry: Entry) -> Entry {
    Entry { lane: with_priority(0, priority).lane, ..entry }
}

fn large(bytes: usize, entry: Entry) -> Entry {
    Entry { body: with_size(entry.attempt.delivery_id.0, bytes).body, ..entry }
}

#[test]
fn what_failed_goes_again_before_one_of_its_key_that_is_more_urgent() {
    let mut bench = Bench::ready(10);
    assert_eq!(pushed_ids(&bench.arrive(vec![in_lane_of(9, keyed(1, "a"))])), [1]);
    assert_eq!(pushed_ids(&bench.arrive(vec![in_lane_of(1, keyed(2, "a"))])), NONE);
    let failed = bench.request(1, fail(1, 0));
    bench.settled(settles(&failed));
    bench.request(1, Request::Window(0));
    bench.arrive(vec![after_failures(1, in_lane_of(9, keyed(1, "a")))]);
    assert_eq!(pushed_ids(&bench.request(1, Request::Window(10))), [1]);
}

#[test]
fn what_failed_and_comes_back_without_its_payload_is_read_before_the_others_of_its_key() {
    let mut bench = Bench::ready(10);
    assert_eq!(pushed_ids(&bench.arrive(vec![keyed(1, "a"), keyed(2, "a")])), [1]);
    let failed = bench.request(1, fail(1, 0));
    bench.settled(settles(&failed));
    let again = || after_failures(1, keyed(1, "a"));
    let mut left = Entry { body: None, ..again() };
    left.terms.as_mut().expect("a key").unfit = Some(Unfit::Left);
    let effects = bench.arrive(vec![left]);
    assert_eq!(pushed_ids(&effects), NONE);
    let asked = key_refill(&effects);
    assert_eq!(pushed_ids(&bench.key_refilled(&asked, vec![again(), keyed(2, "a")])), [1]);
}

#[test]
fn a_row_of_a_key_that_cannot_be_read_frees_its_key() {
    let mut bench = Bench::ready(10);
    let last = KEY_PARKED_MAX as i64 + 2;
    bench.arrive((1..=last).map(|id| keyed(id, "a")).collect());
    let acked = bench.ack(1, &[1], None);
    bench.settled(settles(&acked));
    let asked = key_refill(&acked);
    // The row has lost its terms with its text.
    let unreadable = Entry { body: None, ..entry(2) };
    let effects = bench.key_refilled(&asked, vec![unreadable, keyed(3, "a")]);
    assert_eq!((pushed_ids(&effects), outcomes(&effects).len()), (vec![3], 1));
}

#[test]
fn what_is_parked_costs_memory_and_needs_room_in_its_session() {
    let mut bench = Bench::ready(10);
    let size = SESSION_BYTES_MAX / 4;
    let waits = large(size, keyed(2, "a"));
    let cost = waits.cost_bytes();
    assert_eq!(pushed_ids(&bench.arrive(vec![keyed(1, "a"), waits])), [1]);
    let held = bench.dispatcher.lanes_bytes();
    assert!((cost..cost + 1_000).contains(&held), "{held}");
    for id in 3..=5 {
        assert_eq!(pushed_ids(&bench.arrive(vec![with_size(id, size)])), [id]);
    }
    assert_eq!(pushed_ids(&bench.arrive(entries([6]))), [6]);
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), NONE, "a byte too many");
    assert_eq!(pushed_ids(&bench.ack(1, &[5], None)), [2]);
}

/// Key `c` has one in flight and one that waits in the table, since the others have parked all that may be parked: the
/// second comes when one of theirs has gone.
fn waits_in_the_table(bench: &mut Bench, tag: u64) {
    assert_eq!(pushed_ids(&bench.ack(1, &[tag], None)), NONE);
    let effects = bench.ack(1, &[1], None);
    assert_eq!((pushed_ids(&effects), key_refill(&effects).key.as_ref()), (vec![2], "c"));
}

/// Two keys, each with one in flight and as many parked as may be for both.
fn park_all(bench: &mut Bench, from: i64) -> i64 {
    let mut last = from - 1;
    for key in 0..PARKED_MAX / KEY_PARKED_MAX {
        let first = last + 1;
        last += KEY_PARKED_MAX as i64 + 1;
        let rows = (first..=last).map(|id| keyed(id, &key.to_string())).collect();
        assert_eq!(pushed_ids(&bench.arrive(rows)), [first]);
    }
    last
}

/// The same by bytes.
fn park_all_bytes(bench: &mut Bench, from: i64) -> i64 {
    for (id, key) in [(from, "a"), (from + 2, "b")] {
        let waits = large(PARKED_BYTES_MAX / 2, keyed(id + 1, key));
        assert_eq!(pushed_ids(&bench.arrive(vec![keyed(id, key), waits])), [id]);
    }
    from + 3
}

#[test]
fn no_more_is_parked_than_the_bound_and_the_rest_is_read_when_there_is_room() {
    for park in [park_all, park_all_bytes] {
        let mut bench = Bench::ready(100);
        let last = park(&mut bench, 1);
        let effects = bench.arrive(vec![keyed(last + 1, "c"), keyed(last + 2, "c")]);
        let [(_, tag, pushed)] = pushes(&effects)[..] else { panic!("{effects:?}") };
        assert_eq!(pushed, last + 1);
        waits_in_the_table(&mut bench, tag);
    }
}

/// Key `c` has a lane of its own, which is empty, with nothing more in the table; the last of the key is in flight with
/// this tag.
fn own_lane(bench: &mut Bench) -> u64 {
    let last = 1_000 + KEY_PARKED_MAX as i64 + 2;
    let rows = (1_001..=last).map(|id| keyed(id, "c"));
    assert_eq!(pushed_ids(&bench.arrive(rows.clone().collect())), [1_001]);
    let mut tag = 1;
    for next in 1_002..=last {
        let acked = bench.ack(1, &[tag], None);
        let mut effects = bench.settled(settles(&acked));
        effects.extend(acked);
        while let Some(refill) = whole_refill(&effects) {
            let asked = refill.keys[0].clone();
            let above = asked.above.max(DeliveryId(next - 1));
            let found = rows.clone().filter(|row| row.attempt.delivery_id > above);
            let more = bench.key_refilled(&asked, found.take(asked.rows).collect());
            effects.retain(|effect| !matches!(effect, Effect::Refill(_)));
            effects.extend(more);
        }
        tag = pushes(&effects).into_iter().find(|push| push.2 == next).expect("goes on").1;
    }
    tag
}

#[test]
fn a_key_with_a_lane_of_its_own_keeps_to_the_bound_too() {
    for park in [park_all, park_all_bytes] {
        let mut bench = Bench::ready(100);
        let tag = own_lane(&mut bench);
        park(&mut bench, 1);
        assert_eq!(pushed_ids(&bench.arrive(vec![keyed(10_000, "c")])), NONE);
        assert_eq!(pushed_ids(&bench.ack(1, &[tag], None)), NONE);
        let effects = bench.ack(1, &[tag + 1], None);
        assert_eq!((pushed_ids(&effects), key_refill(&effects).key.as_ref()), (vec![2], "c"));
    }
}

#[test]
fn a_key_that_nothing_waits_for_costs_nothing() {
    let mut bench = Bench::ready(100);
    bench.arrive(vec![keyed(1, "a long name of a key"), keyed(2, "b")]);
    assert!(bench.dispatcher.lanes_bytes() > 0);
    bench.ack(1, &[1, 2], None);
    assert_eq!(bench.dispatcher.lanes_bytes(), 0);
    let mut bench = Bench::ready(100);
    let tag = own_lane(&mut bench);
    assert!(bench.dispatcher.lanes_bytes() > 0);
    bench.ack(1, &[tag], None);
    assert_eq!(bench.dispatcher.lanes_bytes(), 0, "its lane has ended");
}

#[test]
fn an_inbox_that_is_gone_costs_nothing() {
    let mut bench = Bench::ready(1);
    bench.arrive(vec![keyed(1, "a")]);
    let failed = bench.request(1, fail(1, 3_600));
    bench.settled(settles(&failed));
    assert!(bench.dispatcher.lanes_bytes() > 0, "the delay is kept");
    assert_eq!(releases(&bench.leave(1, 1, false)), 1);
    bench.tell(Event::GivenBack(inbox()));
    assert_eq!(bench.dispatcher.lanes_bytes(), 0);
}

/// So many delays are kept in memory; of one more, the delay that ends first ends now.
#[test]
fn of_many_delays_the_first_ends_early() {
    let mut bench = Bench::ready(100);
    let mut pushed = Vec::new();
    for id in 1..=KEYS_MAX as i64 + 1 {
        let row = keyed(id, &id.to_string());
        let [(_, tag, _)] = pushes(&bench.arrive(vec![row.clone()]))[..] else {
            panic!("{id} is not pushed")
        };
        let failed = bench.request(1, fail(tag, 3_600 + id as u64));
        bench.settled(settles(&failed));
        bench.after(Duration::from_millis(1));
        pushed.extend(pushed_ids(&bench.arrive(vec![after_failures(1, row)])));
    }
    assert_eq!(pushed, NONE);
    assert_eq!(pushed_ids(&bench.request(1, Request::Window(99))), [1]);
}

/// As many of a key as give it a lane of its own, which was not read yet; the first is in flight with this tag.
fn overflow(bench: &mut Bench, first: i64, key: &str) -> u64 {
    let rows = (first..).take(KEY_PARKED_MAX + 2).map(|id| keyed(id, key)).collect();
    let effects = bench.arrive(rows);
    let [(_, tag, pushed)] = pushes(&effects)[..] else { panic!("{effects:?}") };
    assert_eq!(pushed, first);
    tag
}

#[test]
fn a_refill_of_a_key_that_fails_is_asked_for_again() {
    let mut bench = Bench::ready(100);
    let tag = overflow(&mut bench, 1, "a");
    let asked = key_refill(&bench.ack(1, &[tag], None));
    assert_eq!(asked, key_refill(&bench.tell(Event::RefillFailed(inbox()))));
}

#[test]
fn no_more_rows_of_keys_are_asked_for_than_may_be_parked() {
    let mut bench = Bench::ready(100);
    let tags = [(1, "a"), (11, "b"), (21, "c"), (31, "d")].map(|(id, key)| overflow(&mut bench, id, key));
    assert_eq!(
        pushed_ids(&bench.arrive((41..=43).map(|id| keyed(id, "e")).collect())),
        [41],
        "two are parked"
    );
    let asked = whole_refill(&bench.ack(1, &tags, None)).expect("reads on").keys;
    assert_eq!(asked.iter().map(|key| key.rows).collect::<Vec<_>>(), [2, 2, 2], "of eight, two each");
}

#[test]
fn the_least_urgent_that_is_parked_makes_room_for_a_key_that_is_more_urgent() {
    let mut bench = Bench::ready(100);
    let tag = overflow(&mut bench, 1, "c");
    let mut tags = Vec::new();
    for (first, key) in [(11, "a"), (21, "b")] {
        let rows = (first..).take(KEY_PARKED_MAX + 1).map(|id| in_lane_of(9, keyed(id, key)));
        tags.extend(pushes(&bench.arrive(rows.collect())).into_iter().map(|push| push.1));
    }
    bench.request(1, Request::Window(0));
    assert!(whole_refill(&bench.ack(1, &tags, None)).is_none(), "all that is free is parked");
    let asked = whole_refill(&bench.ack(1, &[tag], None)).expect("there is room now").keys;
    assert_eq!(asked.iter().map(|key| (&*key.key, key.rows)).collect::<Vec<_>>(), [("c", 2)]);
}

/// Whether the lanes are read anew where so many keys are known and so many of them are free: with deliveries that are
/// parked, or with deliveries that wait in the table.
fn reads_anew(keys: usize, free: usize, in_table: bool) -> bool {
    let mut bench = Bench::ready(100);
    let mut tags = Vec::new();
    for n in 0..keys {
        let (first, key) = (100 * n as i64 + 1, n.to_string());
        if n < free && in_table {
            tags.push(overflow(&mut bench, first, &key));
            continue;
        }
        let rows = (first..).take(if n < free { 2 } else { 1 }).map(|id| keyed(id, &key));
        let [(_, tag, _)] = pushes(&bench.arrive(rows.collect()))[..] else { panic!("one goes") };
        tags.extend((n < free).then_some(tag));
    }
    bench.request(1, Request::Window(0));
    refill(&bench.ack(1, &tags, None)).is_some_and(|lanes| !lanes.is_empty())
}

#[test]
fn free_keys_are_forgotten_where_there_are_too_many() {
    let (most, free) = (2 * KEYS_MAX, KEYS_MAX / 2);
    assert!(reads_anew(most + 1, free + 1, false) && reads_anew(most + 1, free + 1, true));
    assert!(!reads_anew(most, free + 1, false), "there are not too many");
    assert!(!reads_anew(most + 1, free, false), "it would not help");
}

#[test]
fn what_is_parked_is_forgotten_when_the_inbox_is_read_anew() {
    let mut bench = Bench::ready(10);
    assert_eq!(pushed_ids(&bench.arrive(vec![keyed(1, "a"), keyed(2, "a")])), [1]);
    bench.tell(Event::LeaseLapsed);
    bench.acquired(3);
    let lanes = refill(&bench.round()).expect("reads anew");
    // Another broker had the inbox, and has handled the second.
    bench.refilled(&lanes, vec![keyed(1, "a")]);
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), NONE);
}

#[test]
fn what_a_key_lets_go_and_what_has_no_key_go_by_their_age() {
    let mut bench = Bench::ready(2);
    assert_eq!(pushed_ids(&bench.arrive(vec![keyed(1, "a"), entry(2)])), [1, 2]);
    bench.request(1, Request::Window(3));
    bench.arrive(vec![keyed(3, "a")]);
    bench.request(1, Request::Window(0));
    let released = bench.request(1, Request::Release { tag: Tag(2), delay: Duration::ZERO });
    bench.settled(settles(&released));
    bench.arrive(entries([2, 4]));
    bench.ack(1, &[1], None);
    let order = (1..=3).map(|window| pushed_ids(&bench.request(1, Request::Window(window))));
    assert_eq!(order.collect::<Vec<_>>(), [[2], [3], [4]]);
}
