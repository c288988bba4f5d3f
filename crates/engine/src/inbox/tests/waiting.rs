//! Waiting for the broker, and waiting for the agent: which wait counts as which.

use std::time::Duration;

use super::support::*;
use crate::inbox::dispatcher::waiting::TAIL_STALE;
use crate::inbox::event::{Effect, Event, Request};
use crate::inbox::{Entry, SessionId, Terms};

const SECOND: Duration = Duration::from_secs(1);

/// How long each pushed delivery waited.
fn waits(effects: &[Effect]) -> Vec<Duration> {
    let pushed = effects.iter().filter_map(|e| if let Effect::Push(_, push) = e { Some(push) } else { None });
    pushed.map(|push| push.waited).collect()
}

/// An entry that was ready so long before it was read, which is now.
fn ready_for(bench: &Bench, id: i64, ready: Duration) -> Entry {
    Entry { ready_when_read: ready, age_when_read: ready, read_at: bench.now, ..entry(id) }
}

#[test]
fn what_the_tail_brings_late_waited_for_the_broker() {
    let mut bench = Bench::ready(10);
    bench.after(60 * SECOND);
    let late = ready_for(&bench, 1, 7 * SECOND);
    assert_eq!(waits(&bench.arrive(vec![late])), [7 * SECOND]);
}

#[test]
fn a_full_window_is_the_agents_own() {
    let mut bench = Bench::ready(1);
    let (first, second) = (ready_for(&bench, 1, Duration::ZERO), ready_for(&bench, 2, Duration::ZERO));
    assert_eq!(waits(&bench.arrive(vec![first, second])), [Duration::ZERO]);
    bench.after(20 * SECOND);
    assert_eq!(bench.dispatcher.longest_wait(bench.now), Duration::ZERO);
    assert_eq!(waits(&bench.ack(1, &[1], None)), [Duration::ZERO]);
}

#[test]
fn a_backlog_waits_for_those_before_it_but_not_while_nothing_goes_on() {
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    bench.after(4 * SECOND);
    bench.acquired(1);
    let lanes = refill(&bench.round()).expect("asks for the table");
    let backlog = vec![ready_for(&bench, 1, 3600 * SECOND), ready_for(&bench, 2, 3600 * SECOND)];
    // Four seconds without an owner are the broker's.
    assert_eq!(waits(&bench.refilled(&lanes, backlog)), [4 * SECOND, Duration::ZERO]);
}

#[test]
fn a_lease_that_ended_is_a_wait_and_so_is_an_inbox_without_an_owner() {
    let mut bench = Bench::ready(10);
    bench.lease(Duration::ZERO);
    bench.after(30 * SECOND);
    let one = ready_for(&bench, 1, Duration::ZERO);
    assert_eq!(pushed_ids(&bench.arrive(vec![one])), NONE);
    bench.after(2 * SECOND);
    assert_eq!(bench.dispatcher.longest_wait(bench.now), 2 * SECOND);
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    bench.round();
    assert_eq!(bench.dispatcher.longest_wait(bench.now), Duration::ZERO, "from the first look on");
    bench.after(2 * SECOND);
    assert_eq!(bench.dispatcher.longest_wait(bench.now), 2 * SECOND);
    bench.request(1, Request::Window(0));
    assert_eq!(bench.dispatcher.longest_wait(bench.now), Duration::ZERO, "nobody has room");
}

#[test]
fn a_tail_that_stopped_is_a_wait_for_whoever_has_room() {
    let mut bench = Bench::ready(10);
    bench.round();
    bench.after(TAIL_STALE - Duration::from_millis(1));
    assert_eq!(bench.dispatcher.longest_wait(bench.now), Duration::ZERO);
    bench.after(Duration::from_millis(1));
    assert_eq!(bench.dispatcher.longest_wait(bench.now), TAIL_STALE);
    bench.tell(Event::Drain(SessionId(1)));
    assert_eq!(bench.dispatcher.longest_wait(bench.now), Duration::ZERO, "it was asked to leave");
}

#[test]
fn rows_that_do_not_come_are_a_wait_and_rows_that_do_are_none() {
    let mut bench = Bench::new();
    bench.join(1, None, 10);
    bench.acquired(1);
    let lanes = refill(&bench.round()).expect("asks for the table");
    bench.dispatcher.longest_wait(bench.now);
    bench.after(2 * SECOND);
    assert_eq!(bench.dispatcher.longest_wait(bench.now), 2 * SECOND);
    bench.refilled(&lanes, Vec::new());
    assert_eq!(bench.dispatcher.longest_wait(bench.now), Duration::ZERO);
}

#[test]
fn what_waits_for_another_of_its_key_does_not_wait_for_the_broker() {
    let mut bench = Bench::ready(10);
    let keyed = |bench: &Bench, id| {
        let terms = Terms { ordering_key: Some("c12".into()), ..Terms::default() };
        Entry { terms: Some(Box::new(terms)), ..ready_for(bench, id, Duration::ZERO) }
    };
    let (first, second) = (keyed(&bench, 1), keyed(&bench, 2));
    assert_eq!(waits(&bench.arrive(vec![first, second])), [Duration::ZERO]);
    bench.after(20 * SECOND);
    bench.round();
    assert_eq!(bench.dispatcher.longest_wait(bench.now), Duration::ZERO);
    assert_eq!(waits(&bench.ack(1, &[1], None)), [Duration::ZERO]);
}
