use std::collections::HashMap;

use proptest::prelude::*;

use super::failures::{DELAY_FIRST, DELAY_MAX, FORGOTTEN_AFTER, SOURCES_MAX};
use super::*;

const PLACES: Places = Places { total: 10, per_address: 4 };

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Sends a wrong token from this address; returns the delay of its answer.
fn fail(guard: &Guard, now: Instant, address: &str) -> Duration {
    let place = guard.admit(ip(address)).expect("a place");
    place.refuse(now).expect("a place to wait").1
}

#[test]
fn places_are_counted_in_all_and_by_address_and_given_back() {
    let guard = Guard::new(PLACES);
    let mut held: Vec<Place> = (0..4).map(|_| guard.admit(ip("10.0.0.1")).expect("a place")).collect();
    assert!(guard.admit(ip("10.0.0.1")).is_none(), "four of this address");
    held.extend((2..8).map(|n| guard.admit(ip(&format!("10.0.0.{n}"))).expect("a place")));
    assert!(guard.admit(ip("10.0.0.9")).is_none(), "ten in all");
    held.remove(0);
    held.push(guard.admit(ip("10.0.0.1")).expect("one left"));
    drop(held);
    assert_eq!(guard.inside().unknown.total, 0);
    assert!(guard.inside().unknown.by_source.is_empty(), "an address without anybody costs nothing");
}

#[test]
fn one_place_that_is_given_back_is_one_place() {
    let guard = Guard::new(PLACES);
    let mut held: Vec<Place> = (0..4).map(|_| guard.admit(ip("10.0.0.1")).expect("a place")).collect();
    held.pop();
    held.push(guard.admit(ip("10.0.0.1")).expect("the one that is free"));
    assert!(guard.admit(ip("10.0.0.1")).is_none(), "four of this address again");
}

#[test]
fn one_subscriber_is_one_address() {
    let same = |a: &str, b: &str| Source::of(ip(a)) == Source::of(ip(b));
    assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"));
    assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
    assert!(same("10.0.0.1", "::ffff:10.0.0.1") && !same("10.0.0.1", "10.0.0.2"));
}

#[test]
fn the_answer_waits_longer_each_time_and_all_is_forgotten() {
    let (guard, mut now) = (Guard::new(PLACES), Instant::now());
    let delays: Vec<u128> = (0..8).map(|_| fail(&guard, now, "10.0.0.1").as_millis()).collect();
    assert_eq!(delays, [100, 200, 400, 800, 1_600, 3_000, 3_000, 3_000]);
    assert_eq!(fail(&guard, now, "10.0.0.2"), DELAY_FIRST, "another address");
    now += FORGOTTEN_AFTER;
    assert_eq!(fail(&guard, now, "10.0.0.1"), DELAY_FIRST, "forgotten");
}

#[test]
fn those_who_were_refused_take_no_place_that_a_right_token_needs() {
    let (guard, now) = (Guard::new(PLACES), Instant::now());
    let mut waiting = Vec::new();
    for _ in 0..PLACES.per_address {
        waiting.push(guard.admit(ip("10.0.0.1")).expect("a place").refuse(now).expect("a place to wait"));
    }
    // All places to wait are taken: the next wrong token is told `busy`, a right one has its place.
    assert!(guard.admit(ip("10.0.0.1")).expect("a place").refuse(now).is_none());
    let honest: Vec<_> = (0..PLACES.per_address).map(|_| guard.admit(ip("10.0.0.1"))).collect();
    assert!(honest.iter().all(Option::is_some));
    drop(waiting);
    assert!(guard.admit(ip("10.0.0.2")).expect("a place").refuse(now).is_some());
}

#[test]
fn what_is_remembered_is_bounded_and_the_oldest_goes_first() {
    let (guard, began) = (Guard::new(PLACES), Instant::now());
    let address = |n: usize| format!("10.{}.{}.1", n / 256, n % 256);
    for n in 0..SOURCES_MAX + 10 {
        fail(&guard, began + Duration::from_millis(n as u64), &address(n));
    }
    let now = began + Duration::from_millis(SOURCES_MAX as u64 + 10);
    assert_eq!(guard.inside().failures.len(), SOURCES_MAX);
    assert_eq!(fail(&guard, now, &address(SOURCES_MAX)), DELAY_FIRST * 2, "remembered");
    assert_eq!(fail(&guard, now, &address(0)), DELAY_FIRST, "forgotten");
}

proptest! {
    /// A plain model: all failures of an address since its last pause.
    #[test]
    fn the_delay_is_that_of_the_failures_since_the_last_pause(
        steps in proptest::collection::vec((0u8..4, 0u64..400), 1..80),
    ) {
        let (guard, mut now) = (Guard::new(PLACES), Instant::now());
        let mut model: HashMap<u8, Vec<Instant>> = HashMap::new();
        for (host, seconds) in steps {
            now += Duration::from_secs(seconds);
            let delay = fail(&guard, now, &format!("10.0.0.{host}"));
            let failed = model.entry(host).or_default();
            if failed.last().is_some_and(|last| now - *last >= FORGOTTEN_AFTER) {
                failed.clear();
            }
            failed.push(now);
            let bound = DELAY_FIRST.as_millis() << (failed.len() - 1).min(40);
            prop_assert_eq!(delay.as_millis(), bound.min(DELAY_MAX.as_millis()));
        }
    }
}
