//! Pushing: which delivery, to whom, and when none.

use std::sync::Arc;
use std::time::Duration;

use super::support::*;
use crate::inbox::dispatcher::{SESSION_BYTES_MAX, UNSETTLED_MAX};
use crate::inbox::event::{DeadCause, Effect, Event, LaneRows, Outcome, Request, Settle};
use crate::inbox::in_flight::MARK_AFTER;
use crate::inbox::owned::OLDEST_EVERY;
use crate::inbox::{Entry, Epoch, Terms, Unfit};

#[test]
fn the_urgent_go_first_and_a_lane_keeps_the_order_of_arrival() {
    let mut bench = Bench::ready(1);
    bench.arrive(entries([9]));
    let waiting = [(12, 10), (11, 2), (10, 2), (14, 1), (13, 10)];
    bench.arrive(waiting.map(|(id, priority)| with_priority(id, priority)).into());
    let mut order = Vec::new();
    for tag in 1..=5 {
        order.extend(pushed_ids(&bench.ack(1, &[tag], None)));
    }
    assert_eq!(order, [14, 10, 11, 12, 13]);
}

#[test]
fn under_a_saturating_urgent_load_one_push_in_sixteen_takes_the_oldest() {
    let mut bench = Bench::ready(1);
    let others = OLDEST_EVERY as i64;
    let mut order = pushed_ids(&bench.arrive((1..=others).map(|id| with_priority(id, 10)).collect()));
    let mut last = others;
    for tag in 1..OLDEST_EVERY * OLDEST_EVERY {
        let urgent = (0..2).map(|_| {
            last += 1;
            with_priority(last, 1)
        });
        order.extend(pushed_ids(&bench.arrive(urgent.collect())));
        order.extend(pushed_ids(&bench.ack(1, &[tag], None)));
    }
    assert_eq!(order.len() as u64, OLDEST_EVERY * OLDEST_EVERY);
    // The first one was alone when it was pushed.
    for (n, id) in order.iter().enumerate().skip(1) {
        let turn_of_the_oldest = n as u64 % OLDEST_EVERY == OLDEST_EVERY - 1;
        assert_eq!(*id <= others, turn_of_the_oldest && n < 15 * 16, "push {n} was {id}");
    }
    assert!(order.iter().filter(|id| **id <= others).is_sorted());
}

#[test]
fn the_window_is_never_exceeded_and_an_ack_refills_it() {
    let mut bench = Bench::ready(3);
    assert_eq!(pushed_ids(&bench.arrive(entries(1..=10))), [1, 2, 3]);
    assert_eq!(pushed_ids(&bench.ack(1, &[2], None)), [4]);
    assert_eq!(pushed_ids(&bench.ack(1, &[1, 3, 4], None)), [5, 6, 7]);
    assert_eq!(pushed_ids(&bench.request(1, Request::Window(5))), [8, 9]);
    assert_eq!(pushed_ids(&bench.request(1, Request::Window(1))), NONE);
    assert_eq!(pushed_ids(&bench.ack(1, &[5, 6, 7, 8], None)), NONE, "one is in flight still");
    assert_eq!(pushed_ids(&bench.ack(1, &[9], None)), [10]);
    assert_eq!(bench.dispatcher.in_flight(), 1);
}

#[test]
fn a_session_holds_so_many_bytes_or_one_delivery_whatever_its_size() {
    let mut bench = Bench::ready(100);
    for id in 1..=4 {
        assert_eq!(pushed_ids(&bench.arrive(vec![with_size(id, SESSION_BYTES_MAX / 4)])), [id]);
    }
    assert_eq!(pushed_ids(&bench.arrive(entries([5]))), NONE);
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [5]);
    bench.ack(1, &[2, 3, 4], None);
    assert_eq!(pushed_ids(&bench.arrive(vec![with_size(6, SESSION_BYTES_MAX + 1)])), NONE);
    assert_eq!(pushed_ids(&bench.ack(1, &[5], None)), [6]);
    assert_eq!(pushed_ids(&bench.arrive(entries([7]))), NONE);
    assert_eq!(pushed_ids(&bench.ack(1, &[6], None)), [7]);
}

#[test]
fn sessions_of_one_agent_take_turns() {
    let mut bench = Bench::ready(100);
    bench.join(2, Some("a"), 100);
    bench.join(3, Some("b"), 2);
    let got = pushes(&bench.arrive(entries(1..=10)));
    let count = |session| got.iter().filter(|push| push.0 == session).count();
    assert_eq!((count(1), count(2), count(3)), (4, 4, 2), "the third has no more room");
    assert!(got.iter().map(|push| push.2).eq(1..=10));
    let got = pushes(&bench.arrive(entries(11..=16)));
    assert!(got.windows(2).all(|two| two[0].0 != two[1].0), "{got:?}");
}

#[test]
fn what_has_expired_is_never_pushed() {
    let mut bench = Bench::ready(1);
    bench.arrive(entries([1]));
    let expires_at = Some(bench.now + Duration::from_secs(5));
    bench.arrive(vec![Entry { expires_at, ..entry(2) }, Entry { expires_at, ..entry(3) }, entry(4)]);
    assert_eq!(pushed_ids(&bench.ack(1, &[1], None)), [2], "not yet");
    bench.after(Duration::from_secs(5));
    let effects = bench.ack(1, &[2], None);
    assert_eq!(pushed_ids(&effects), [4]);
    assert_eq!(outcomes(&effects)[1..], [(3, Outcome::Expired)]);
}

#[test]
fn what_does_not_fit_into_a_line_is_dead_and_the_next_goes_on() {
    let mut bench = Bench::ready(1);
    let effects = bench.arrive(vec![Entry { body: None, ..entry(1) }, entry(2)]);
    assert_eq!(pushed_ids(&effects), [2]);
    let [(1, Outcome::Dead { cause: DeadCause::PayloadTooLarge, .. })] = &outcomes(&effects)[..] else {
        panic!("{effects:?}");
    };
}

#[test]
fn what_cannot_be_read_is_dead_with_its_own_reason() {
    let mut bench = Bench::ready(1);
    let unfit = Unfit::Unreadable("no text".into());
    let terms = Some(Box::new(Terms { unfit: Some(unfit), ..Terms::default() }));
    let effects = bench.arrive(vec![Entry { body: None, terms, ..entry(1) }, entry(2)]);
    assert_eq!(pushed_ids(&effects), [2]);
    let [(1, Outcome::Dead { cause: DeadCause::Unreadable, reason })] = &outcomes(&effects)[..] else {
        panic!("{effects:?}");
    };
    assert_eq!(reason, "unreadable: no text");
}

#[test]
fn what_cannot_be_seen_keeps_its_place_and_many_are_looked_for_one_after_the_other() {
    let mut bench = Bench::ready(1);
    let hidden = |id| Entry {
        body: None,
        terms: Some(Box::new(Terms { unfit: Some(Unfit::Unseen), ..Terms::default() })),
        ..entry(id)
    };
    let effects = bench.arrive((1..=1000).map(hidden).chain([entry(1001)]).collect());
    assert_eq!(pushed_ids(&effects), [1001]);
    let delay = |outcome: &Outcome| match outcome {
        Outcome::Unseen { delay } => *delay,
        other => panic!("{other:?}"),
    };
    let outcomes = outcomes(&effects);
    let delays: Vec<_> = outcomes.iter().map(|(_, outcome)| delay(outcome)).collect();
    assert_eq!((delays.len(), delays[0]), (1000, Duration::from_secs(2)));
    assert_eq!(delays[999], Duration::from_secs(2) + 999 * Duration::from_millis(10));
}

#[test]
fn nothing_is_pushed_when_the_lease_ends_until_it_is_renewed() {
    let mut bench = Bench::ready(10);
    bench.lease(Duration::from_secs(3));
    bench.after(Duration::from_secs(3) - MARGIN - Duration::from_millis(1));
    assert_eq!(pushed_ids(&bench.arrive(entries([1]))), [1]);
    bench.after(Duration::from_millis(1));
    assert_eq!(pushed_ids(&bench.arrive(entries([2]))), NONE);
    assert_eq!(settles(&bench.ack(1, &[1], None)).len(), 1, "acks are taken");
    assert_eq!(pushed_ids(&bench.lease(Duration::from_secs(3))), [2]);
}

#[test]
fn nothing_is_pushed_after_stop() {
    let mut bench = Bench::ready(1);
    bench.arrive(entries([1, 2]));
    bench.tell(Event::Stop);
    let effects = bench.ack(1, &[1], None);
    assert_eq!((pushed_ids(&effects).len(), settles(&effects).len()), (0, 1));
    assert_eq!(pushed_ids(&bench.lease(Duration::from_secs(3))), NONE);
}

/// Acknowledges all that an inbox's one session, with this id, gets until the inbox is held back. Returns the outcomes.
fn fill_places(bench: &mut Bench, inbox: &str, session: u64) -> Vec<Settle> {
    let (step, mut settling, mut id) = (1_000, Vec::new(), 0);
    loop {
        let rows = entries(id as i64 + 1..=(id + step) as i64);
        let arrived = rows.into_iter().map(|e| (inbox.into(), e)).collect();
        let pushed = pushed_ids(&bench.tell(Event::Arrived(arrived))).len() as u64;
        bench.round();
        let tags: Vec<_> = (id + 1..=id + pushed).collect();
        settling.extend(settles(&bench.ack(session, &tags, None)));
        if pushed < step {
            return settling;
        }
        id += step;
    }
}

#[test]
fn a_slow_database_stops_the_pushes_and_they_go_on_when_it_has_caught_up() {
    let mut bench = Bench::ready(1_000);
    let mut settling = fill_places(&mut bench, INBOX, 1);
    assert_eq!((settling.len(), bench.dispatcher.held_back().len()), (UNSETTLED_MAX / 2, 1));
    assert_eq!(pushed_ids(&bench.settled(settling.split_off(1))).len(), 1_000);
    bench.settled(settling);
    assert_eq!((bench.dispatcher.unsettled(), bench.dispatcher.held_back().len()), (0, 0));
}

#[test]
fn an_inbox_whose_outcomes_are_not_written_leaves_places_for_another() {
    let mut bench = Bench::ready(1_000);
    let stuck = fill_places(&mut bench, INBOX, 1);
    let other: Arc<str> = "other".into();
    bench.join_inbox(2, &other, 1_000);
    bench.tell(Event::Acquired { inbox: other.clone(), epoch: Epoch(2) });
    let asked = whole_refill(&bench.round()).expect("asks for the table");
    let lanes = asked.lanes.iter().map(|l| LaneRows { lane: l.lane, asked: l.rows, rows: Vec::new() });
    let lanes = lanes.collect();
    bench.tell(Event::Refilled { inbox: other.clone(), lanes, keys: Vec::new() });
    let of_other = fill_places(&mut bench, &other, 2);
    assert_eq!(of_other.len(), UNSETTLED_MAX / 4);
    assert_eq!(bench.dispatcher.held_back().cloned().collect::<Vec<_>>(), [other, INBOX.into()]);
    // The other one's outcomes are written, so it goes on, and the first does not.
    let pushed = pushes(&bench.settled(of_other));
    assert!(pushed.len() == 1_000 && pushed.iter().all(|(session, ..)| *session == 2));
    assert_eq!(bench.dispatcher.held_back().cloned().collect::<Vec<_>>(), [INBOX.into()]);
    assert!(pushes(&bench.settled(stuck)).iter().any(|(session, ..)| *session == 1));
}

#[test]
fn what_is_in_flight_for_a_second_is_marked_once() {
    let mut bench = Bench::ready(10);
    bench.arrive(entries([1, 2]));
    bench.ack(1, &[1], None);
    assert_eq!(bench.dispatcher.next_wake(), Some(bench.now + MARK_AFTER));
    let marked = |effects: Vec<Effect>| {
        effects.into_iter().find_map(|e| if let Effect::Mark(ids) = e { Some(ids) } else { None })
    };
    assert_eq!(marked(bench.after(MARK_AFTER)), Some(vec![entry(2).message_id]));
    assert_eq!(marked(bench.after(MARK_AFTER)), None);
}

#[test]
fn the_memory_of_the_lanes_is_counted_back_to_zero() {
    let mut bench = Bench::ready(2);
    bench.arrive((1..=50).map(|id| with_priority(id, id % 10 + 1)).collect());
    let cost: usize = (1..=48).map(|_| entry(10).cost_bytes()).sum();
    assert!(bench.dispatcher.lanes_bytes().abs_diff(cost) < 50);
    for tag in 1..=30 {
        bench.ack(1, &[tag], None);
    }
    assert!(bench.dispatcher.lanes_bytes() > 0);
    bench.leave(1, 32, false);
    assert_eq!(bench.dispatcher.lanes_bytes(), 0);
}
