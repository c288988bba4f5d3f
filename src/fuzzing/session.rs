//! A session and the dispatcher behind it, for any bytes before and after the hello.

#![expect(clippy::disallowed_types, reason = "the dispatcher is called here, which takes std's Instant")]

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{cut, cuts_and_stream, runtime};
use crate::agents::session::rehearsal::{Seen, play};
use postbell_client::message::{LANES, Priority};
use postbell_client::protocol::ServerFrame;
use postbell_client::protocol::limits::WINDOW_MAX;
use postbell_engine::inbox::dispatcher::{Dispatcher, Rules, UNSETTLED_MAX};
use postbell_engine::inbox::event::{Effect, Event, LaneRows};
use postbell_engine::inbox::{Attempt, DeliveryId, Entry, Epoch};
use postbell_engine::retry::RetryPolicy;

/// Said first where the input's second byte is odd, so that what comes after it is found soon.
const HELLO: &[u8] = b"{\"op\":\"hello\",\"agent\":\"a\",\"token\":\"t\",\"window\":50}\n";
/// Deliveries that wait for whoever joins.
const WAITING: i64 = 100;
const LEASE: Duration = Duration::from_secs(24 * 3_600);

/// A session asks, sends and answers the same however its bytes arrive; what it writes can be read; and the dispatcher
/// takes whatever it asks.
pub fn session(bytes: &[u8]) {
    let (greets, bytes) = match bytes.split_first() {
        Some((first, rest)) => (first % 2 == 1, rest),
        None => (false, bytes),
    };
    let (cuts, said) = cuts_and_stream(bytes);
    let stream = if greets { [HELLO, said].concat() } else { said.to_vec() };
    let runtime = runtime();
    let whole = runtime.block_on(play(&[&stream]));
    let pieces = runtime.block_on(play(&cut(cuts, &stream)));
    same(&whole, &pieces);
    dispatch(whole.events);
}

fn same(whole: &Seen, pieces: &Seen) {
    assert_eq!(asked(&whole.events), asked(&pieces.events));
    assert_eq!(format!("{:?}", whole.sends), format!("{:?}", pieces.sends));
    assert_eq!(whole.asks, pieces.asks);
    assert_eq!(whole.ended_with_bytes, pieces.ended_with_bytes);
    let (mut a, mut b) = (answers(&whole.written), answers(&pieces.written));
    if !whole.ended_with_bytes {
        // The last word is the same; answers that were not written before it went with the session.
        assert_eq!(last_word(&mut a), last_word(&mut b));
        let n = a.len().min(b.len());
        a.truncate(n);
        b.truncate(n);
    }
    assert_eq!(a, b);
}

/// The requests; a `Leave` also tells how far the writing was, and nothing was pushed.
fn asked(events: &[Event]) -> Vec<String> {
    events.iter().map(|e| format!("{e:?}")).collect()
}

fn answers(written: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(written).expect("UTF-8");
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is whole");
    for line in text.lines() {
        assert!(matches!(ServerFrame::decode(line.as_bytes()), Ok(Some(_))), "no client reads {line}");
    }
    text.lines().map(str::to_owned).collect()
}

fn last_word(answers: &mut Vec<String>) -> Option<String> {
    answers.pop_if(|line| line.contains("\"fatal\":true"))
}

/// The real dispatcher, with deliveries for the session to speak of.
fn dispatch(events: Vec<Event>) {
    let retry = RetryPolicy::default();
    let rules = Rules {
        ack_deadline: Duration::from_secs(30),
        retry,
        lease_margin: Duration::from_millis(500),
        unsettled_max: UNSETTLED_MAX,
    };
    let mut dispatcher = Dispatcher::new(rules, 7);
    let mut now = Instant::now();
    dispatcher.handle(now, Event::LeaseUntil(now + LEASE));
    for event in events {
        let joined = match &event {
            Event::Join { inbox, .. } => Some(inbox.clone()),
            _ => None,
        };
        dispatcher.handle(now, event);
        let effects = dispatcher.advance(now);
        settle(&mut dispatcher, now, effects);
        if let Some(inbox) = joined {
            dispatcher.handle(now, Event::Acquired { inbox: inbox.clone(), epoch: Epoch(1) });
            dispatcher.handle(now, Event::TailRound { started_at: now, snapshot: "1".into() });
            let lanes =
                (0..LANES).map(|lane| LaneRows { lane, asked: 1_000, rows: rows(lane, now) }).collect();
            dispatcher.handle(now, Event::Refilled { inbox, lanes, keys: Vec::new() });
            let effects = dispatcher.advance(now);
            settle(&mut dispatcher, now, effects);
        }
        assert!(dispatcher.in_flight() <= WINDOW_MAX as usize);
        now += Duration::from_millis(7);
    }
    // Every deadline and every delay, to the end.
    for _ in 0..100 {
        let Some(wake) = dispatcher.next_wake() else { break };
        now = now.max(wake);
        let effects = dispatcher.advance(now);
        settle(&mut dispatcher, now, effects);
    }
}

/// Writes at once.
fn settle(dispatcher: &mut Dispatcher, now: Instant, effects: Vec<Effect>) {
    let settles: Vec<_> =
        effects.into_iter().filter_map(|e| if let Effect::Settle(s) = e { Some(s) } else { None }).collect();
    if !settles.is_empty() {
        dispatcher.handle(now, Event::Settled(settles));
    }
}

fn rows(lane: usize, now: Instant) -> Vec<Entry> {
    if lane != Priority::default().lane() {
        return Vec::new();
    }
    let row = |id: i64| Entry {
        attempt: Attempt { delivery_id: DeliveryId(id), failed: 0 },
        message_id: Uuid::from_u128(id as u128),
        lane,
        read_at: now,
        age_when_read: Duration::ZERO,
        ready_when_read: Duration::ZERO,
        expires_at: None,
        terms: None,
        body: Some("\"id\":1}".into()),
    };
    (1..=WAITING).map(row).collect()
}
