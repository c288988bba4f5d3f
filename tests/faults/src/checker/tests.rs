use super::*;
use crate::schedule::{Fault, Planned};
use crate::task::Wish;

fn seen(at_ms: u32, process: u8, what: What) -> Seen {
    Seen { at_ms, attempt: 1, process, what }
}

/// A ledger of one message.
fn one(fate: Fate, timing: Timing, all: &[Seen]) -> Ledger {
    let mut ledger = Ledger::default();
    let n = ledger.open(0..1, Wish::Ack, timing);
    ledger.close(n, fate);
    all.iter().for_each(|seen| ledger.see(n, *seen));
    ledger
}

fn found(status: Status, has_reason: bool, delivery: Option<Delivery>) -> Found {
    Found { rows: 1, status, has_reason, delivery }
}

fn end_of(ledger: &Ledger, found: Found) -> End {
    *balance(ledger, &[found], &[]).ends.keys().next().expect("one line")
}

fn episode(begun_ms: u32, ended_ms: u32, inbox: Option<u8>) -> Episode {
    let fault = Fault::CrashPostgres;
    let planned = Planned { number: 7, at_ms: 0, lasting_ms: 0, fault };
    Episode {
        planned,
        name: String::new(),
        begun_ms,
        ended_ms,
        inbox,
        skipped: None,
        note: None,
        defect: None,
    }
}

const HANDLED: [Seen; 2] = [
    Seen { at_ms: 10, attempt: 1, process: 0, what: What::Delivered },
    Seen { at_ms: 11, attempt: 1, process: 0, what: What::Handled },
];

#[test]
fn a_committed_message_ends_well_or_is_lost() {
    let ledger = one(Fate::Committed, Timing::Now, &HANDLED);
    assert_eq!(end_of(&ledger, found(Status::Processed, false, None)), End::Acknowledged);
    assert_eq!(end_of(&ledger, found(Status::Failed, true, Some(Delivery::Dead))), End::Dead);
    assert_eq!(end_of(&ledger, found(Status::Pending, false, Some(Delivery::Waiting))), End::Waiting);
    assert_eq!(end_of(&ledger, Found::default()), End::Lost, "its row is gone");
    assert_eq!(end_of(&ledger, found(Status::Failed, false, Some(Delivery::Dead))), End::Lost, "no reason");
    assert_eq!(end_of(&ledger, found(Status::Failed, true, None)), End::Lost, "it had no time to expire");
    assert_eq!(end_of(&ledger, found(Status::Pending, false, None)), End::Lost, "its delivery is gone");
    let unseen = one(Fate::Committed, Timing::Expires, &[]);
    assert_eq!(end_of(&unseen, found(Status::Processed, false, None)), End::Lost, "nobody handled it");
    assert_eq!(end_of(&unseen, found(Status::Failed, true, None)), End::Expired);
}

#[test]
fn a_message_whose_commit_was_not_answered_may_be_there_or_not() {
    let there = one(Fate::Unknown, Timing::Now, &HANDLED);
    assert_eq!(end_of(&there, found(Status::Processed, false, None)), End::Acknowledged);
    assert_eq!(end_of(&there, Found::default()), End::Lost, "an agent had it");
    assert_eq!(end_of(&one(Fate::Unknown, Timing::Now, &[]), Found::default()), End::NotStored);
}

#[test]
fn what_was_rolled_back_or_stored_twice_is_a_phantom() {
    let never = one(Fate::Never, Timing::Now, &[]);
    assert_eq!(end_of(&never, Found::default()), End::Refused);
    assert_eq!(end_of(&never, found(Status::Processed, false, None)), End::Phantom);
    assert_eq!(end_of(&one(Fate::Never, Timing::Now, &HANDLED), Found::default()), End::Phantom);
    let twice = Found { rows: 2, ..found(Status::Processed, false, None) };
    assert_eq!(end_of(&one(Fate::Committed, Timing::Now, &HANDLED), twice), End::Phantom);
}

fn duplicates(all: &[Seen], episodes: &[Episode]) -> Balance {
    let ledger = one(Fate::Committed, Timing::Now, all);
    balance(&ledger, &[found(Status::Processed, false, None)], episodes)
}

#[test]
fn a_duplicate_is_explained_by_the_fault_at_which_it_was_in_flight() {
    let all = [
        seen(1_000, 0, What::Delivered),
        seen(1_001, 0, What::Handled),
        seen(4_000, 1, What::Delivered),
        seen(4_001, 1, What::Handled),
        seen(4_010, 1, What::Confirmed),
    ];
    let explained = |episode| duplicates(&all, &[episode]).unexplained() == 0;
    assert!(explained(episode(2_000, 3_000, None)));
    assert!(explained(episode(0, 1_000, Some(0))));
    assert!(!explained(episode(2_000, 3_000, Some(1))), "it reached another inbox only");
    assert!(!explained(episode(6_000, 7_000, None)), "it began when the message was settled");
    assert!(!explained(episode(0, 500, None)), "it was over before");
    assert_eq!(duplicates(&all, &[episode(2_000, 3_000, None)]).duplicates_by_fault[&7], 1);
}

#[test]
fn the_next_attempt_may_come_while_this_one_is_still_worked_on() {
    let next = |seen: Seen| Seen { attempt: 2, ..seen };
    let all = [
        seen(1_000, 0, What::Delivered),
        next(seen(5_000, 0, What::Delivered)),
        seen(6_000, 0, What::Handled),
        next(seen(7_000, 0, What::Handled)),
    ];
    assert_eq!(duplicates(&all, &[episode(2_000, 2_000, None)]).unexplained(), 0);
    assert_eq!(duplicates(&all, &[episode(6_500, 6_500, None)]).unexplained(), 1);
}

#[test]
fn what_comes_after_its_confirmed_ack_is_a_duplicate_though_nobody_handled_it() {
    let mut all = vec![
        seen(1_000, 0, What::Delivered),
        seen(1_001, 0, What::Handled),
        seen(1_002, 0, What::Confirmed),
        seen(9_000, 0, What::Delivered),
    ];
    let late = episode(8_000, 9_000, None);
    let balance = duplicates(&all, std::slice::from_ref(&late));
    assert_eq!((balance.duplicated, balance.after_confirmed, balance.unexplained()), (1, 1, 1));
    all.pop();
    assert_eq!(duplicates(&all, &[late]).duplicated, 0);
}

#[test]
fn a_message_that_was_given_back_is_no_duplicate() {
    let all = [
        seen(1, 0, What::Delivered),
        seen(2, 0, What::GivenBack),
        seen(30, 0, What::Delivered),
        seen(31, 0, What::Handled),
    ];
    let balance = duplicates(&all, &[]);
    assert_eq!((balance.duplicated, balance.redelivered), (0, 1));
}
