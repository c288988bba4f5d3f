//! The tail and the refills bring each row once, whatever comes in between.

use super::support::*;
use crate::inbox::event::{Event, LaneRefill, Request};
use crate::inbox::lane::ROOM;
use crate::inbox::{Entry, Terms, Unfit};

/// Session 1 with a window of 100, and the first refill under way.
fn loading() -> (Bench, Vec<LaneRefill>) {
    let mut bench = Bench::new();
    bench.join(1, None, 100);
    bench.acquired(1);
    let lanes = refill(&bench.round()).expect("reads");
    (bench, lanes)
}

/// As many rows as the refill asked for: there may be more.
fn full(lanes: &[LaneRefill]) -> Vec<Entry> {
    let lane = lanes.iter().find(|l| l.lane == entry(1).lane).expect("asked for");
    entries(lane.above.0 + 1..=lane.above.0 + lane.rows as i64)
}

#[test]
fn a_refill_in_the_middle_of_a_round_does_not_step_over_what_the_round_brought() {
    let (mut bench, lanes) = loading();
    let last = full(&lanes).len() as i64;
    bench.arrive_in_part(entries([last + 5]));
    // The new delivery's row is not visible in the snapshot of this refill, nor of the next.
    let rows = full(&lanes);
    let effects = bench.refilled(&lanes, rows);
    let lanes = refill(&effects).expect("there is more");
    let effects = bench.refilled(&lanes, entries([last + 1, last + 9]));
    assert_eq!(pushed_ids(&effects), [last + 1]);
    assert!(refill(&effects).is_none(), "nothing new before the round ends");
    let lanes = refill(&bench.round()).expect("the round is whole");
    assert_eq!(lanes[0].above.0, last + 4);
    assert_eq!(pushed_ids(&bench.refilled(&lanes, entries([last + 5, last + 9]))), [last + 5, last + 9]);
}

#[test]
fn what_a_refill_brought_too_much_of_is_read_again_without_waiting_for_a_round() {
    let (mut bench, lanes) = loading();
    let big = |id| with_size(id, ROOM.bytes * 2 / 3);
    let effects = bench.refilled(&lanes, vec![big(1), big(2)]);
    assert_eq!(pushed_ids(&effects), [1]);
    let lanes = refill(&effects).expect("reads on");
    assert_eq!(pushed_ids(&bench.refilled(&lanes, vec![big(2)])), [2]);
}

#[test]
fn the_answer_of_a_refill_from_before_the_lanes_were_forgotten_says_nothing() {
    let (mut bench, lanes) = loading();
    let rows = full(&lanes);
    let stale = refill(&bench.refilled(&lanes, rows)).expect("there is more");
    bench.tell(Event::TailBroken);
    assert!(refill(&bench.round()).is_none(), "one refill at a time");
    let lanes = refill(&bench.refilled(&stale, entries([100]))).expect("anew");
    assert!(lanes.iter().all(|lane| lane.above.0 == 0));
    assert_eq!(pushed_ids(&bench.refilled(&lanes, entries([90, 100]))), [90, 100]);
}

/// A row whose payload the tail did not read.
fn left(id: i64) -> Entry {
    let terms = Terms { unfit: Some(Unfit::Left), ..Terms::default() };
    Entry { terms: Some(Box::new(terms)), body: None, ..entry(id) }
}

#[test]
fn what_the_tail_left_in_the_table_is_read_by_a_refill_with_all_that_came_after_it() {
    let mut bench = Bench::ready(10);
    let effects = bench.arrive_in_part(vec![entry(1), left(2), entry(3)]);
    assert_eq!((pushed_ids(&effects), refill(&effects)), (vec![1], None));
    let lanes = refill(&bench.round()).expect("reads it");
    assert_eq!((lanes.len(), lanes[0].above.0), (1, 1));
    let effects = bench.refilled(&lanes, vec![left(2), entry(3)]);
    assert_eq!(pushed_ids(&effects), NONE, "the second is before the third");
    let lanes = refill(&effects).expect("asks again");
    assert_eq!(pushed_ids(&bench.refilled(&lanes, entries([2, 3]))), [2, 3]);
}

#[test]
fn an_inbox_is_given_back_when_its_refill_has_come() {
    let (mut bench, lanes) = loading();
    assert_eq!(releases(&bench.leave(1, 0, false)), 0);
    assert_eq!(releases(&bench.refilled(&lanes, Vec::new())), 1);
    let (mut bench, _) = loading();
    assert_eq!(releases(&bench.leave(1, 0, false)), 0);
    assert_eq!(releases(&bench.tell(Event::RefillFailed(inbox()))), 1);
}

#[test]
fn a_refill_that_fails_is_asked_for_again() {
    let (mut bench, lanes) = loading();
    let again = refill(&bench.tell(Event::RefillFailed(inbox()))).expect("asked again");
    assert_eq!(lanes, again);
    assert_eq!(pushed_ids(&bench.refilled(&again, entries([1]))), [1]);
}

#[test]
fn a_row_whose_older_attempt_is_in_flight_is_read() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1, 2]));
    // Another broker had the inbox, and the first delivery failed there.
    bench.tell(Event::LeaseLapsed);
    bench.acquired(3);
    let lanes = refill(&bench.round()).expect("reads anew");
    let effects = bench.refilled(&lanes, vec![after_failures(1, entry(1)), entry(2)]);
    assert_eq!(pushed_ids(&effects), [1], "the second is the one in flight");
}

#[test]
fn a_row_whose_outcome_is_being_written_is_read_again_when_it_is_committed() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1, 2]));
    let settling = settles(&bench.ack(1, &[1], None));
    bench.tell(Event::TailBroken);
    let lanes = refill(&bench.round()).expect("reads anew");
    let effects = bench.refilled(&lanes, entries([1, 2, 3]));
    assert_eq!(pushed_ids(&effects), NONE);
    assert!(refill(&effects).is_none(), "it waits for the news");
    let lanes = refill(&bench.settled(settling)).expect("reads on");
    assert_eq!(pushed_ids(&bench.refilled(&lanes, entries([2, 3]))), [3]);
}

#[test]
fn a_row_that_was_settled_while_the_refill_was_read_is_read_again() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1]));
    let settling = settles(&bench.ack(1, &[1], None));
    bench.tell(Event::TailBroken);
    let lanes = refill(&bench.round()).expect("reads anew");
    bench.settled(settling);
    let effects = bench.refilled(&lanes, entries([1, 2]));
    assert_eq!(pushed_ids(&effects), NONE);
    let lanes = refill(&effects).expect("at once: the table knows by now");
    assert_eq!(pushed_ids(&bench.refilled(&lanes, entries([2]))), [2]);
}

#[test]
fn the_less_urgent_wait_for_what_is_on_its_way_from_the_table() {
    let mut bench = Bench::ready(1);
    let urgent = |ids: std::ops::RangeInclusive<i64>| ids.map(|id| with_priority(id, 1)).collect::<Vec<_>>();
    let held = ROOM.entries as i64;
    bench.arrive(urgent(1..=held + 2));
    bench.arrive(vec![with_priority(held + 3, 9)]);
    let mut asked = None;
    for tag in 1..=held as u64 {
        asked = asked.or(refill(&bench.ack(1, &[tag], None)));
    }
    assert_eq!(pushed_ids(&bench.request(1, Request::Window(3))), NONE);
    let asked = asked.expect("reads on when half is gone");
    assert_eq!((asked.len(), asked[0].lane, asked[0].above.0), (1, 1, held));
    let effects = bench.refilled(&asked, urgent(held + 1..=held + 2));
    assert_eq!(pushed_ids(&effects), [held + 1, held + 2, held + 3]);
}
