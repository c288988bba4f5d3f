use super::*;

const UP: Heard = Heard { up: true, rings: 0, canary: 0, canary_sent: 0 };

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A bell that armed `QUIET_WINDOW` after `now` while these transactions were in progress.
fn arming(now: Instant, in_progress: &[u64]) -> Bell {
    let mut bell = Bell::new(now);
    bell.hear(now, UP);
    assert_eq!(bell.round(now + ms(50), 0, &[], UP), None, "not quiet for long enough");
    assert_eq!(bell.round(now + QUIET_WINDOW, 0, &[], UP), Some(Flag::Arm));
    bell.armed(now + QUIET_WINDOW);
    bell.round(now + QUIET_WINDOW, 0, in_progress, UP);
    bell
}

#[test]
fn it_sleeps_only_when_every_transaction_of_the_arming_moment_has_ended() {
    let now = Instant::now();
    let mut bell = arming(now, &[7, 9]);
    assert!(!bell.is_asleep());
    bell.round(now + ms(200), 0, &[9, 12], UP);
    assert!(!bell.is_asleep());
    assert!(bell.due() <= now + ms(200) + ARMING_MAX);
    bell.round(now + ms(300), 1, &[12], UP);
    assert!(bell.is_asleep(), "12 began after arming: it rings");
    assert!(arming(now, &[]).is_asleep());
}

#[test]
fn asleep_it_tails_when_rung_and_after_a_second() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let t = now + ms(500);
    assert_eq!(bell.due(), now + QUIET_WINDOW + SAFETY);
    assert_eq!(bell.hear(t, Heard { rings: 1, ..UP }), None);
    assert_eq!(bell.due(), t);
    bell.round(t, 1, &[], Heard { rings: 1, ..UP });
    assert!(bell.is_asleep());
}

/// So many canaries come back, a second apart. The pauses between the rounds.
fn pauses(first: Duration, canaries: u64) -> Vec<Duration> {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let (mut last, mut found) = (now + QUIET_WINDOW, Vec::new());
    for n in 1..=canaries {
        let back = now + first + ms(1_000 * n);
        while bell.due() < back {
            found.push(bell.due() - last);
            last = bell.due();
            bell.round(last, 0, &[], Heard { canary: n - 1, canary_sent: n - 1, ..UP });
        }
        bell.hear(back, Heard { canary: n, canary_sent: n, ..UP });
    }
    found.push(bell.due() - last);
    found
}

#[test]
fn while_canaries_come_back_it_tails_every_two_seconds_and_a_second_after_the_last() {
    for first in [0, 1, 99, 101, 500, 900, 999] {
        let found = pauses(ms(first), 20);
        assert!(found.iter().all(|pause| (SAFETY..=SAFETY_MAX).contains(pause)), "{first}: {found:?}");
        let few = found[1..found.len() - 1].iter().all(|pause| *pause == SAFETY_MAX);
        assert!(few && found.len() <= 12, "{first}: {found:?}");
    }
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let back = now + ms(300);
    bell.hear(back, Heard { canary: 1, canary_sent: 1, ..UP });
    assert_eq!(bell.due(), back + SAFETY + CANARY_GRACE, "the next one is lost, and perhaps a ring");
    bell.hear(back + ms(10), Heard { canary: 1, canary_sent: 1, rings: 1, ..UP });
    assert_eq!(bell.due(), back + ms(10));
    bell.hear(back + ms(20), Heard { canary: 2, canary_sent: 2, rings: 1, ..UP });
    assert_eq!(bell.due(), back + ms(10), "what was announced is not put off");
}

#[test]
fn rung_often_it_disarms_and_tails_on_its_own_clock() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let t = now + ms(500);
    for i in 1..RINGS_OFTEN {
        assert_eq!(bell.hear(t + ms(i), Heard { rings: i, ..UP }), None);
    }
    assert_eq!(bell.hear(t + ms(20), Heard { rings: RINGS_OFTEN, ..UP }), Some(Flag::Disarm));
    assert!(!bell.is_armed());
    bell.round(t + ms(21), 5, &[], UP);
    assert_eq!(bell.due(), t + ms(21) + AWAKE_MIN);
    for i in 0..10 {
        bell.round(t + ms(22 + i), 0, &[], UP);
    }
    assert!(bell.due() <= t + ms(31) + AWAKE_MAX);
}

#[test]
fn a_ring_at_the_very_end_of_the_window_still_counts() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let t = now + ms(500);
    bell.hear(t, Heard { rings: RINGS_OFTEN - 1, ..UP });
    assert_eq!(bell.hear(t + RINGS_WINDOW, Heard { rings: RINGS_OFTEN, ..UP }), Some(Flag::Disarm));
}

#[test]
fn awake_its_clock_slows_down_while_nothing_comes_and_is_fast_again_at_once() {
    let now = Instant::now();
    let mut bell = Bell::new(now);
    bell.hear(now, UP);
    for pause in [4, 8, 10, 10] {
        bell.round(now, 0, &[], UP);
        assert_eq!(bell.due(), now + ms(pause));
    }
    bell.wake(now + ms(1));
    assert_eq!(bell.due(), now + ms(1) + AWAKE_MIN, "many announcements must not cause many rounds");
    bell.round(now + ms(2), 0, &[], UP);
    bell.round(now + ms(3), 1, &[], UP);
    assert_eq!(bell.due(), now + ms(3) + AWAKE_MIN);
}

#[test]
fn arming_its_clock_slows_down_while_a_transaction_stays_open() {
    let now = Instant::now();
    let mut bell = arming(now, &[7]);
    for pause in [8, 16, 32, 64, 128, 250, 250] {
        bell.round(now + ms(200), 0, &[7], UP);
        assert_eq!(bell.due(), now + ms(200 + pause));
    }
}

#[test]
fn slow_ringing_does_not_disarm() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    for i in 1..100 {
        let t = now + ms(1_000 + i * 20);
        assert_eq!(bell.hear(t, Heard { rings: i, ..UP }), None);
        bell.round(t, 1, &[], UP);
    }
    assert!(bell.is_asleep());
}

/// Runs a clock that ticks every 10 ms for one second, with so many rows each round; true if the bell stayed
/// awake.
fn awake_for_a_second(rows_each: u64) -> bool {
    let now = Instant::now();
    let mut bell = Bell::new(now);
    bell.hear(now, UP);
    (1..=100).all(|i| bell.round(now + ms(i * 10), rows_each, &[], UP).is_none())
}

#[test]
fn a_busy_mesh_keeps_it_awake_and_a_slow_one_does_not() {
    assert!(awake_for_a_second(1), "100 messages a second");
    let now = Instant::now();
    let mut bell = Bell::new(now);
    bell.hear(now, UP);
    // 50 rows a second, 20 ms apart: no quiet window is ever empty.
    let slept = (1..=20).any(|i| bell.round(now + ms(i * 10), i % 2, &[], UP) == Some(Flag::Arm));
    assert!(slept);
}

#[test]
fn deaf_it_never_sleeps() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let deaf = Heard { up: false, ..UP };
    assert_eq!(bell.hear(now + ms(500), deaf), Some(Flag::Disarm));
    for i in 0..100 {
        let t = now + ms(500 + i * 100);
        assert_eq!(bell.round(t, 0, &[], deaf), None);
        assert!(bell.due() <= t + DEAF_MAX);
    }
}

#[test]
fn a_row_that_only_the_safety_round_found_is_late_once_a_later_canary_is_back() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let t = bell.due();
    let heard = Heard { canary_sent: 4, canary: 4, ..UP };
    bell.hear(t, heard);
    bell.round(t, 3, &[], heard);
    bell.hear(t + ms(1), heard);
    assert_eq!(bell.late(), 0, "a ring may be on its way");
    let disarm = bell.hear(t + ms(2), Heard { canary_sent: 5, canary: 5, ..UP });
    assert_eq!((bell.late(), disarm), (3, Some(Flag::Disarm)), "it arms anew");
    assert!(!bell.is_armed() && bell.due() == t + ms(2));
}

#[test]
fn an_empty_safety_round_judges_no_later_one() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let t = bell.due();
    bell.round(t, 0, &[], Heard { canary_sent: 4, canary: 4, ..UP });
    let t = bell.due();
    bell.round(t, 3, &[], Heard { canary_sent: 5, canary: 4, ..UP });
    bell.hear(t + ms(1), Heard { canary_sent: 5, canary: 5, ..UP });
    assert_eq!(bell.late(), 0, "that canary was sent before the rows were found");
}

#[test]
fn a_slow_ring_is_no_missing_ring() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let t = bell.due();
    bell.round(t, 3, &[], UP);
    bell.hear(t + ms(1), Heard { rings: 1, canary_sent: 1, canary: 1, ..UP });
    bell.hear(t + ms(2), Heard { rings: 1, canary_sent: 2, canary: 2, ..UP });
    assert_eq!(bell.late(), 0);
}

#[test]
fn what_was_announced_is_not_late() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    bell.wake(now + ms(300));
    bell.round(now + ms(300), 1, &[], UP);
    bell.hear(now + ms(400), Heard { canary_sent: 9, canary: 9, ..UP });
    assert_eq!(bell.late(), 0);
}

/// Producers do not ring for a broker whose lease has ended, which a renewal tells it later than the tail finds the rows.
#[test]
fn what_came_while_the_lease_had_lapsed_is_not_late() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    let t = bell.due();
    bell.round(t, 2, &[], UP);
    assert_eq!(bell.wake_up(t + ms(1)), Some(Flag::Disarm));
    bell.hear(t + ms(2), Heard { canary_sent: 1, canary: 1, ..UP });
    assert_eq!(bell.late(), 0);
}

#[test]
fn a_week_of_silence_changes_nothing() {
    let now = Instant::now();
    let mut bell = arming(now, &[]);
    for _ in 0..7 * 24 * 3_600 {
        let t = bell.due();
        assert_eq!(bell.hear(t, UP), None);
        assert_eq!(bell.round(t, 0, &[], UP), None);
        assert_eq!(bell.due(), t + SAFETY);
    }
    assert!(bell.is_asleep());
    assert_eq!(bell.late(), 0);
}
