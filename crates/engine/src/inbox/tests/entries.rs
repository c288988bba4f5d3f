//! An entry, an outcome and the dispatcher say of themselves, to the broker around them, what is true.

use std::time::Duration;

use super::support::*;
use crate::inbox::dispatcher::{Here, LANES_BYTES_MAX};
use crate::inbox::event::{DeadCause, Effect, Event, LaneRows};
use crate::inbox::lane::{ROOM, ROOM_SCARCE};
use crate::inbox::{DeliveryId, ENTRY_BYTES, Entry, Epoch, SessionId, TERMS_BYTES, Terms, Unfit};
use postbell_client::message::{LANES, REPLIES, Trace};

#[test]
fn an_entry_costs_its_body_and_its_terms() {
    let plain = with_size(1, 100);
    assert_eq!(plain.cost_bytes(), ENTRY_BYTES + 100);
    let with_terms = Entry { terms: Some(Box::default()), ..plain };
    assert_eq!(with_terms.cost_bytes(), ENTRY_BYTES + TERMS_BYTES + 100);
}

#[test]
fn a_dead_letter_says_why_and_whether_an_agent_had_it() {
    let left = Unfit::Left.sentence();
    assert_eq!((left, Unfit::TooLarge("the headers".into()).sentence()), ("it was not read", "the headers"));
    let tried = |cause: DeadCause| cause.was_tried();
    assert!(tried(DeadCause::MaxAttempts) && tried(DeadCause::Rejected));
    assert!(!tried(DeadCause::PayloadTooLarge) && !tried(DeadCause::Unreadable));
    assert_eq!((DeliveryId(7).to_string(), SessionId(8).to_string()), ("7".to_owned(), "8".to_owned()));
}

#[test]
fn a_push_says_how_old_its_message_is_and_to_which_trace_it_belongs() {
    let mut bench = Bench::ready(1);
    let trace =
        Trace::from_headers(r#"{"traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}"#);
    assert!(trace.is_some());
    let terms = Some(Box::new(Terms { trace, ..Terms::default() }));
    let age_when_read = Duration::from_secs(5);
    let old = Entry { age_when_read, read_at: bench.now, terms, ..entry(1) };
    bench.now += Duration::from_secs(2);
    let effects = bench.arrive(vec![old]);
    let [Effect::Push(_, push)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((push.age, push.trace), ((Duration::from_secs(7), bench.now), trace));
}

#[test]
fn the_survey_counts_the_sessions_here_and_what_is_in_flight_to_links_too() {
    let mut bench = Bench::ready(1);
    bench.join(2, None, 1);
    bench.link(3, 1);
    bench.arrive(entries(1..=9));
    let found = bench.dispatcher.survey();
    assert_eq!(found.get(INBOX), Some(&Here { sessions: 2, in_flight: 3 }));
    assert_eq!((found.len(), bench.dispatcher.inboxes(), bench.dispatcher.sessions()), (1, 1, 3));
    let nobody = Bench::new().dispatcher;
    assert_eq!((nobody.survey().len(), nobody.inboxes(), nobody.sessions()), (0, 0, 0));
}

/// So many inboxes that their lanes would not fit into memory.
#[test]
fn all_lanes_together_have_a_bound() {
    let mut bench = Bench::new();
    let body = with_size(1, ROOM.bytes / 2 - 1_000).body;
    let lanes = LANES - REPLIES - 1;
    let inboxes = 2 * LANES_BYTES_MAX / (lanes * ROOM.bytes);
    for n in 0..inboxes {
        let inbox: std::sync::Arc<str> = n.to_string().into();
        let (session, window, hold) = (SessionId(n as u64), 0, HOLD);
        let (instance, link, rank) = (None, false, None);
        bench.tell(Event::Join { session, inbox: inbox.clone(), instance, window, hold, link, rank });
        bench.tell(Event::Acquired { inbox: inbox.clone(), epoch: Epoch(n as i64 + 1) });
        let asked = refill(&bench.round()).expect("asks for the table");
        let nothing =
            asked.iter().map(|l| LaneRows { lane: l.lane, asked: l.rows, rows: Vec::new() }).collect();
        bench.tell(Event::Refilled { inbox: inbox.clone(), lanes: nothing, keys: Vec::new() });
        let row = |id, lane| (inbox.clone(), Entry { lane, body: body.clone(), ..entry(id) });
        let rows = (REPLIES + 1..LANES).flat_map(|lane| (1..=2).map(move |n| (lane as i64 * 2 + n, lane)));
        bench.tell(Event::Arrived(rows.map(|(id, lane)| row(id, lane)).collect()));
    }
    let held = bench.dispatcher.lanes_bytes();
    // Above the bound each lane holds one, whatever its size.
    assert!(held > LANES_BYTES_MAX && ROOM_SCARCE.bytes < ROOM.bytes / 4, "{held}");
    assert!(held < LANES_BYTES_MAX * 5 / 3, "{held}");
}
