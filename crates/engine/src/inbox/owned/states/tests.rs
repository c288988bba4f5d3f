//! The table of states, row by row: what is legal, and nothing else.

use std::mem::discriminant;
use std::time::Instant;

use super::*;
use crate::inbox::owned::Unsettled;
use crate::inbox::{DeliveryId, SessionId};

const QUESTIONS: [Question; 3] = [Question::None, Question::Open, Question::Outdated];

fn readings() -> [Reading; 4] {
    [Reading::Idle, Reading::Asked { settled: HashSet::new() }, Reading::Stale, Reading::AwaitsSettle]
}

fn ownerships() -> [Ownership; 6] {
    let (since, epoch) = (Instant::now(), Epoch(1));
    [
        Ownership::Acquiring,
        Ownership::Elsewhere,
        Ownership::Loading { since, epoch },
        Ownership::Owned { epoch },
        Ownership::Leaving { epoch },
        Ownership::GivingBack,
    ]
}

/// An inbox in this state, legal or not.
fn inbox(parts: (Ownership, Question, Reading, bool, bool)) -> Inbox {
    let (ownership, question, reading, has_session, is_unsettled) = parts;
    let mut inbox = Inbox { ownership, question, reading, ..Inbox::new() };
    if has_session {
        inbox.sessions.push_back(SessionId(1));
    }
    if is_unsettled {
        let attempt = Attempt { delivery_id: DeliveryId(1), failed: 0 };
        inbox.unsettled.insert(attempt, Unsettled { in_flight: 1, settling: 0 });
    }
    inbox
}

#[test]
fn only_the_states_of_the_table_are_legal() {
    let mut legal = [0; 6];
    for (row, ownership) in ownerships().into_iter().enumerate() {
        for question in QUESTIONS {
            for reading in readings() {
                for (has_session, is_unsettled) in
                    [(false, false), (false, true), (true, false), (true, true)]
                {
                    let is_read = matches!(reading, Reading::Asked { .. } | Reading::Stale);
                    let is_asked = question != Question::None;
                    let is_held = matches!(reading, Reading::Asked { .. } | Reading::AwaitsSettle);
                    let expected = match row {
                        0 => is_asked && !is_held,
                        1 => !is_asked && !is_held && !has_session && (is_unsettled || is_read),
                        2 => !is_held && has_session,
                        3 => has_session,
                        4 => !is_held && !has_session && (is_unsettled || is_read || is_asked),
                        _ => !is_asked && reading == Reading::Idle && !is_unsettled,
                    };
                    let state = (ownership, question, reading.clone(), has_session, is_unsettled);
                    let checked = inbox(state.clone()).check();
                    assert_eq!(checked.is_ok(), expected, "{state:?}: {checked:?}");
                    legal[row] += usize::from(expected);
                }
            }
        }
    }
    assert_eq!(legal, [16, 3, 12, 24, 11, 2]);
}

#[test]
fn only_the_changes_of_the_table_are_legal() {
    let [acquiring, elsewhere, loading, owned, leaving, giving_back] = ownerships();
    let table = [
        (acquiring, vec![acquiring, elsewhere, loading]),
        (elsewhere, vec![acquiring]),
        (loading, vec![acquiring, loading, owned, leaving]),
        (owned, vec![acquiring, loading, leaving]),
        (leaving, vec![acquiring, loading, giving_back]),
        (giving_back, vec![acquiring]),
    ];
    for (from, to) in table {
        let kinds = |of: Vec<Ownership>| of.iter().map(discriminant).collect::<Vec<_>>();
        let may = ownerships().into_iter().filter(|other| from.may_become(*other)).collect();
        assert_eq!(kinds(may), kinds(to), "{from:?}");
    }
    let (since, epoch) = (Instant::now(), Epoch(2));
    for from in [loading, owned] {
        assert!(!from.may_become(Ownership::Owned { epoch }), "an epoch is owned after it was loaded");
        assert!(!from.may_become(Ownership::Leaving { epoch }), "only the epoch that is left is given back");
        assert!(from.may_become(Ownership::Loading { since, epoch }), "another epoch is loaded anew");
    }
}
