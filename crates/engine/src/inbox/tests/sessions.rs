//! Sessions that come, take over and leave.

use std::time::Duration;

use super::support::*;
use crate::inbox::event::{Effect, Event, FailCause, Outcome};
use postbell_client::protocol::ErrorCode;

const NOBODY: [u64; 0] = [];
const RELEASE: Outcome = Outcome::Release { delay: Duration::ZERO };

fn disconnected() -> Outcome {
    let reason = "the agent disconnected before it acknowledged".into();
    Outcome::Fail { delay: Duration::ZERO, cause: FailCause::Disconnect, reason }
}

fn closed(effects: &[Effect]) -> Vec<u64> {
    let session = |effect: &Effect| match effect {
        Effect::Close(session, ErrorCode::TakenOver) => Some(session.0),
        _ => None,
    };
    effects.iter().filter_map(session).collect()
}

#[test]
fn the_newest_session_of_an_instance_goes_on_and_the_old_one_is_closed_once() {
    let mut bench = Bench::new();
    bench.join(1, Some("pc"), 10);
    bench.own(1);
    assert_eq!(pushes(&bench.arrive(entries([1, 2])))[0].0, 1);
    assert_eq!(closed(&bench.join(2, Some("pc"), 10)), [1]);
    assert_eq!(closed(&bench.join(3, Some("pc"), 10)), [2], "the first one is told already");
    assert!(pushes(&bench.arrive(entries(3..=6))).iter().all(|push| push.0 == 3));
    assert_eq!(outcomes(&bench.ack(1, &[1], None)).len(), 1, "what it has it may finish");
    assert_eq!(outcomes(&bench.leave(1, 2, false)), [(2, disconnected())]);
    assert_eq!(outcomes(&bench.leave(1, 2, false)), [], "it left already");
}

#[test]
fn a_hello_that_comes_late_takes_nothing_over() {
    let mut bench = Bench::new();
    bench.join_ranked(1, 100, false);
    bench.own(1);
    assert_eq!(closed(&bench.join_ranked(2, 90, true)), [2], "a link for a session that the agent has left");
    assert_eq!(closed(&bench.join_ranked(3, 101, true)), [1], "the agent has gone to another broker");
    assert_eq!(closed(&bench.join_ranked(4, 102, true)), [3], "whose link was cut, and made anew");
    assert_eq!(closed(&bench.join_ranked(5, 101, true)), [5], "an attempt that it had given up");
    assert_eq!(pushes(&bench.arrive(entries([1])))[0].0, 4);
}

#[test]
fn other_instances_and_sessions_without_one_share() {
    let mut bench = Bench::ready(10);
    for (session, instance) in [(2, Some("a")), (3, Some("b")), (4, None)] {
        assert_eq!(closed(&bench.join(session, instance, 10)), NOBODY);
    }
    let mut got: Vec<_> = pushes(&bench.arrive(entries(1..=8))).iter().map(|push| push.0).collect();
    got.sort_unstable();
    assert_eq!(got, [1, 1, 2, 2, 3, 3, 4, 4]);
}

#[test]
fn of_what_was_written_to_a_session_that_ends_the_oldest_has_failed_and_the_rest_is_given_back() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries(1..=4));
    bench.ack(1, &[1], None);
    let effects = bench.leave(1, 3, false);
    assert_eq!(outcomes(&effects), [(2, disconnected()), (3, RELEASE), (4, RELEASE)]);
    assert_eq!(bench.dispatcher.in_flight(), 0);
}

#[test]
fn a_session_that_the_broker_ends_has_not_failed() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries(1..=2));
    assert_eq!(outcomes(&bench.leave(1, 2, true)), [(1, RELEASE), (2, RELEASE)]);
}

#[test]
fn an_inbox_is_given_back_when_its_last_outcome_is_committed() {
    let mut bench = Bench::ready(10);
    bench.join(2, None, 10);
    bench.arrive(entries(1..=4));
    let effects = bench.leave(2, 0, false);
    assert_eq!(releases(&effects), 0, "one session is left");
    let given_back = settles(&effects);
    assert_eq!(given_back.len(), 2);
    let mut settling = settles(&bench.leave(1, 9, false));
    assert_eq!(settling.len(), 2);
    let last = settling.split_off(1);
    assert_eq!(releases(&bench.settled(settling)), 0);
    assert_eq!(releases(&bench.settled(last)), 0, "the other session's are not written yet");
    assert_eq!(bench.dispatcher.lanes_bytes(), 0);
    assert_eq!(releases(&bench.settled(given_back)), 1);
}

#[test]
fn a_session_that_joins_an_inbox_being_left_waits_for_a_round_and_keeps_the_lease() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries(1..=2));
    let settling = settles(&bench.leave(1, 0, false));
    let effects = bench.join(2, None, 10);
    assert_eq!((acquires(&effects), pushed_ids(&effects).len()), (0, 0));
    assert_eq!(releases(&bench.settled(settling)), 0);
    let lanes = refill(&bench.round()).expect("reads the table anew");
    assert_eq!(pushed_ids(&bench.refilled(&lanes, entries(1..=2))), [1, 2]);
}

#[test]
fn a_session_that_joins_an_inbox_being_given_back_asks_for_it_again() {
    let mut bench = Bench::ready(10);
    assert_eq!(releases(&bench.leave(1, 0, false)), 1);
    assert_eq!(acquires(&bench.join(2, None, 10)), 0, "not before it is given back");
    assert_eq!(pushed_ids(&bench.arrive(entries([1]))), NONE);
    let effects = bench.tell(Event::GivenBack(inbox()));
    assert_eq!(acquires(&effects), 1);
    bench.own(2);
    assert_eq!(pushed_ids(&bench.arrive(entries([2]))), [2]);
}

#[test]
fn nothing_is_left_when_all_have_left() {
    let mut bench = Bench::ready(1);
    bench.arrive(entries(1..=3));
    let settling = settles(&bench.leave(1, 0, false));
    assert!(!bench.dispatcher.is_empty());
    assert_eq!(releases(&bench.settled(settling)), 1);
    bench.tell(Event::GivenBack(inbox()));
    let dispatcher = &bench.dispatcher;
    assert!(dispatcher.is_empty() && dispatcher.lanes_bytes() == 0 && dispatcher.sessions() == 0);
    assert_eq!(pushed_ids(&bench.arrive(entries([4]))), NONE, "the next owner reads it");
}
