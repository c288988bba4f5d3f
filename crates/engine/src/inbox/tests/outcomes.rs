//! From what an agent says, or fails to say, to what is written.

use std::time::Duration;

use super::support::*;
use crate::inbox::event::{DeadCause, Effect, FailCause, Outcome, Request};
use crate::inbox::{SessionId, Tag};
use postbell_client::protocol::ErrorCode;

/// Session 1 has these, tagged from 1.
fn with_in_flight(ids: impl IntoIterator<Item = i64>) -> Bench {
    let mut bench = Bench::ready(100);
    bench.arrive(entries(ids));
    bench
}

fn fail(tag: u64, delay: Option<Duration>) -> Request {
    Request::Fail { tag: Tag(tag), delay, reason: "no".into() }
}

#[test]
fn an_ack_with_a_ref_is_answered_when_all_its_outcomes_are_committed() {
    let mut bench = with_in_flight(1..=5);
    let mut first = settles(&bench.ack(1, &[1, 2, 3], Some("a")));
    let second = settles(&bench.ack(1, &[4], Some("b")));
    let last = first.split_off(2);
    assert_eq!(acked(&bench.settled(first)), Vec::<&str>::new());
    assert_eq!(acked(&bench.settled(second)), ["b"]);
    assert_eq!(acked(&bench.settled(last)), ["a"]);
    let silent = settles(&bench.ack(1, &[5], None));
    assert_eq!(acked(&bench.settled(silent)), Vec::<&str>::new());
}

#[test]
fn a_tag_that_is_not_in_flight_is_refused_and_the_others_are_settled() {
    let mut bench = with_in_flight(1..=2);
    let effects = bench.ack(1, &[7, 1, 8], Some("a"));
    assert_eq!(outcomes(&effects).len(), 1);
    let Some(Effect::Refuse(SessionId(1), error)) = effects.iter().find(|e| matches!(e, Effect::Refuse(..)))
    else {
        panic!("{effects:?}");
    };
    assert_eq!((error.code, error.reference.as_deref()), (ErrorCode::UnknownTag, Some("a")));
    assert!(error.message.contains("tag 7 (and 1 more)"), "{}", error.message);
    assert_eq!(bench.dispatcher.answers(), 1);
    bench.settled(settles(&effects));
    assert_eq!(refused(&bench.ack(1, &[1], Some("b"))), 1, "a second ack");
    assert_eq!(bench.dispatcher.answers(), 0, "a refusal is an answer");
    assert_eq!(refused(&bench.ack(2, &[2], None)), 1, "another session's tag");
    for request in [
        fail(1, None),
        Request::Release { tag: Tag(1), delay: Duration::ZERO },
        Request::Dead { tag: Tag(1), reason: "no".into() },
        Request::Extend { tag: Tag(1), by: DEADLINE },
    ] {
        let effects = bench.request(1, request);
        assert_eq!((refused(&effects), settles(&effects).len()), (1, 0));
    }
}

#[test]
fn what_is_given_back_is_not_counted() {
    let mut bench = with_in_flight([1]);
    let delay = Duration::from_secs(9);
    let effects = bench.request(1, Request::Release { tag: Tag(1), delay });
    assert_eq!(outcomes(&effects), [(1, Outcome::Release { delay })]);
    assert_eq!(settles(&effects)[0].attempt.failed, 0);
}

#[test]
fn a_failure_is_retried_within_the_bound_of_its_backoff_or_when_the_agent_says() {
    let mut bench = Bench::ready(1_000);
    let second = |id| after_failures(1, entry(id));
    bench.arrive((1..=200).map(|id| if id > 100 { second(id) } else { entry(id) }).collect());
    let mut delays = Vec::new();
    for tag in 1..=200 {
        let effects = bench.request(1, fail(tag, None));
        let [(_, Outcome::Fail { delay, cause: FailCause::Nack, reason })] = &outcomes(&effects)[..] else {
            panic!("{effects:?}");
        };
        assert_eq!(reason, "no");
        delays.push(*delay);
    }
    let longest = |delays: &[Duration]| delays.iter().max().copied().unwrap_or_default();
    let (first, second) = delays.split_at(100);
    assert!(longest(first) <= RULES.retry.bound(1) && longest(first) > RULES.retry.bound(1) / 2);
    assert!(longest(second) <= RULES.retry.bound(2) && longest(second) > RULES.retry.bound(1));

    bench.arrive(entries([201]));
    let effects = bench.request(1, fail(201, Some(DEADLINE)));
    assert!(matches!(outcomes(&effects)[..], [(201, Outcome::Fail { delay: DEADLINE, .. })]));
}

#[test]
fn the_last_attempt_that_fails_is_dead() {
    let mut bench = Bench::ready(10);
    bench.arrive(vec![after_failures(ATTEMPTS_MAX - 1, entry(1))]);
    let effects = bench.request(1, fail(1, Some(Duration::ZERO)));
    let [(1, Outcome::Dead { cause: DeadCause::MaxAttempts, reason })] = &outcomes(&effects)[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(reason, "no (attempt 3, the last)");
}

#[test]
fn what_the_agent_rejects_is_dead_at_once() {
    let mut bench = with_in_flight([1]);
    let effects = bench.request(1, Request::Dead { tag: Tag(1), reason: "bad".into() });
    let dead = Outcome::Dead { cause: DeadCause::Rejected, reason: "bad".into() };
    assert_eq!(outcomes(&effects), [(1, dead)]);
}

#[test]
fn a_deadline_that_passes_is_a_failure_and_an_extension_moves_it() {
    let mut bench = with_in_flight([1, 2]);
    bench.after(DEADLINE - Duration::from_secs(1));
    bench.request(1, Request::Extend { tag: Tag(1), by: DEADLINE });
    let effects = bench.after(Duration::from_secs(1));
    assert!(matches!(outcomes(&effects)[..], [(2, Outcome::Fail { cause: FailCause::Deadline, .. })]));
    assert_eq!(bench.dispatcher.next_wake(), Some(bench.now + DEADLINE - Duration::from_secs(1)));
    let effects = bench.after(DEADLINE - Duration::from_secs(1));
    assert!(matches!(outcomes(&effects)[..], [(1, Outcome::Fail { cause: FailCause::Deadline, .. })]));
    assert_eq!(refused(&bench.ack(1, &[1, 2], None)), 1, "too late");
    assert_eq!(bench.dispatcher.next_wake(), None);
}

#[test]
fn a_deadline_that_passes_frees_the_window() {
    let mut bench = Bench::ready(1);
    bench.arrive(entries([1, 2]));
    assert_eq!(pushed_ids(&bench.after(DEADLINE)), [2]);
}

#[test]
fn what_comes_again_by_the_tail_is_pushed_again_before_the_news_of_its_outcome() {
    let mut bench = with_in_flight([1]);
    let settling = settles(&bench.request(1, Request::Release { tag: Tag(1), delay: Duration::ZERO }));
    assert_eq!(pushes(&bench.arrive(entries([1]))), [(1, 2, 1)]);
    assert_eq!(pushed_ids(&bench.settled(settling)), NONE);
    assert_eq!(settles(&bench.ack(1, &[2], None)).len(), 1);
}

#[test]
fn an_attempt_that_is_in_flight_is_not_pushed_twice_if_the_tail_repeats_it() {
    let mut bench = with_in_flight([1]);
    assert_eq!(pushed_ids(&bench.arrive(entries([1]))), NONE);
    let next_attempt = after_failures(1, entry(1));
    assert_eq!(pushed_ids(&bench.arrive(vec![next_attempt])), [1]);
}
