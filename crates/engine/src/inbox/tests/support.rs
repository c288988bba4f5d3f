//! A dispatcher on a bench: its clock stands still until it is moved.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::inbox::dispatcher::{Dispatcher, Rules, UNSETTLED_MAX};
use crate::inbox::event::{
    Effect, Event, KeyRefill, KeyRows, LaneRefill, LaneRows, Outcome, Push, Refill, Request, Settle,
};
use crate::inbox::{Attempt, DeliveryId, Entry, Epoch, Rank, SessionId, Tag};
use crate::retry::RetryPolicy;
use postbell_client::message::{LANES, Priority};

pub(super) const INBOX: &str = "worker";
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// The longest that a session may hold one.
pub(super) const HOLD: Duration = Duration::from_secs(3600);
pub(super) const MARGIN: Duration = Duration::from_millis(500);
/// No delivery.
pub(super) const NONE: [i64; 0] = [];
pub(super) const ATTEMPTS_MAX: u32 = 3;

pub(super) const RULES: Rules = Rules {
    ack_deadline: DEADLINE,
    retry: RetryPolicy {
        base: Duration::from_secs(2),
        cap: Duration::from_secs(60),
        attempts_max: ATTEMPTS_MAX,
    },
    lease_margin: MARGIN,
    unsettled_max: UNSETTLED_MAX,
};

pub(super) struct Bench {
    pub(super) dispatcher: Dispatcher,
    pub(super) now: Instant,
    rounds: u64,
}

impl Bench {
    /// With a lease for a day.
    pub(super) fn new() -> Self {
        let mut bench = Self { dispatcher: Dispatcher::new(RULES, 7), now: Instant::now(), rounds: 0 };
        bench.lease(Duration::from_secs(24 * 3600));
        bench
    }

    /// With session 1 on [`INBOX`], of which nothing waits in the table.
    pub(super) fn ready(window: u32) -> Self {
        let mut bench = Self::new();
        bench.join(1, None, window);
        bench.own(1);
        bench
    }

    pub(super) fn tell(&mut self, event: Event) -> Vec<Effect> {
        self.dispatcher.handle(self.now, event);
        self.dispatcher.advance(self.now)
    }

    pub(super) fn after(&mut self, wait: Duration) -> Vec<Effect> {
        self.now += wait;
        self.dispatcher.advance(self.now)
    }

    pub(super) fn lease(&mut self, left: Duration) -> Vec<Effect> {
        self.tell(Event::LeaseUntil(self.now + left))
    }

    pub(super) fn join(&mut self, session: u64, instance: Option<&str>, window: u32) -> Vec<Effect> {
        let (inbox, instance) = (INBOX.into(), instance.map(str::to_owned));
        self.tell(Event::Join {
            session: SessionId(session),
            inbox,
            instance,
            window,
            hold: HOLD,
            link: false,
            rank: None,
        })
    }

    /// A session on another inbox.
    pub(super) fn join_inbox(&mut self, session: u64, inbox: &Arc<str>, window: u32) -> Vec<Effect> {
        self.tell(Event::Join {
            session: SessionId(session),
            inbox: inbox.clone(),
            instance: None,
            window,
            hold: HOLD,
            link: false,
            rank: None,
        })
    }

    /// The same where it is known since when the session stands; of another broker or not.
    pub(super) fn join_ranked(&mut self, session: u64, rank: i64, link: bool) -> Vec<Effect> {
        let (inbox, instance, rank) = (INBOX.into(), Some("i".to_owned()), Some(Rank(rank)));
        self.tell(Event::Join {
            session: SessionId(session),
            inbox,
            instance,
            window: 1,
            hold: HOLD,
            link,
            rank,
        })
    }

    /// Another broker's session.
    pub(super) fn link(&mut self, session: u64, window: u32) -> Vec<Effect> {
        self.tell(Event::Join {
            session: SessionId(session),
            inbox: INBOX.into(),
            instance: None,
            window,
            hold: HOLD,
            link: true,
            rank: None,
        })
    }

    pub(super) fn leave(&mut self, session: u64, written: u64, by_broker: bool) -> Vec<Effect> {
        self.tell(Event::Leave { session: SessionId(session), written: Tag(written), by_broker })
    }

    pub(super) fn acquired(&mut self, epoch: i64) -> Vec<Effect> {
        self.tell(Event::Acquired { inbox: INBOX.into(), epoch: Epoch(epoch) })
    }

    /// A round of the tail that brings these.
    pub(super) fn arrive(&mut self, entries: Vec<Entry>) -> Vec<Effect> {
        let mut effects = self.arrive_in_part(entries);
        effects.extend(self.round());
        effects
    }

    /// Some rows of a round that is not whole.
    pub(super) fn arrive_in_part(&mut self, entries: Vec<Entry>) -> Vec<Effect> {
        self.tell(Event::Arrived(entries.into_iter().map(|e| (INBOX.into(), e)).collect()))
    }

    /// The end of a round.
    pub(super) fn round(&mut self) -> Vec<Effect> {
        self.rounds += 1;
        let snapshot = self.rounds.to_string().as_str().into();
        self.tell(Event::TailRound { started_at: self.now, snapshot })
    }

    /// The answer to a refill of every lane: the rows are sorted into theirs.
    pub(super) fn refilled(&mut self, lanes: &[LaneRefill], rows: Vec<Entry>) -> Vec<Effect> {
        let of = |lane| rows.iter().filter(|e| e.lane == lane).cloned().collect();
        let lanes =
            lanes.iter().map(|l| LaneRows { lane: l.lane, asked: l.rows, rows: of(l.lane) }).collect();
        self.tell(Event::Refilled { inbox: INBOX.into(), lanes, keys: Vec::new() })
    }

    /// The answer to a refill of one key and no lane.
    pub(super) fn key_refilled(&mut self, asked: &KeyRefill, rows: Vec<Entry>) -> Vec<Effect> {
        let keys = vec![KeyRows { key: asked.key.clone(), asked: asked.rows, rows }];
        self.tell(Event::Refilled { inbox: INBOX.into(), lanes: Vec::new(), keys })
    }

    /// The lease comes, a round, and an empty table.
    pub(super) fn own(&mut self, epoch: i64) -> Vec<Effect> {
        self.acquired(epoch);
        let lanes = refill(&self.round()).expect("asks for the table");
        assert_eq!(lanes.len(), LANES);
        self.refilled(&lanes, Vec::new())
    }

    pub(super) fn request(&mut self, session: u64, request: Request) -> Vec<Effect> {
        self.tell(Event::Request { session: SessionId(session), request })
    }

    pub(super) fn ack(&mut self, session: u64, tags: &[u64], reference: Option<&str>) -> Vec<Effect> {
        let (tags, reference) = (tags.iter().copied().map(Tag).collect(), reference.map(str::to_owned));
        self.request(session, Request::Ack { tags, reference })
    }

    /// The outcomes are committed.
    pub(super) fn settled(&mut self, settles: Vec<Settle>) -> Vec<Effect> {
        self.tell(Event::Settled(settles))
    }
}

pub(super) fn entry(id: i64) -> Entry {
    Entry {
        attempt: Attempt { delivery_id: DeliveryId(id), failed: 0 },
        message_id: Uuid::from_u128(id as u128),
        lane: Priority::default().lane(),
        read_at: Instant::now(),
        age_when_read: Duration::ZERO,
        ready_when_read: Duration::ZERO,
        expires_at: None,
        terms: None,
        body: Some(id.to_string().into()),
    }
}

pub(super) fn entries(ids: impl IntoIterator<Item = i64>) -> Vec<Entry> {
    ids.into_iter().map(entry).collect()
}

/// The same delivery, which failed so often.
pub(super) fn after_failures(failed: u32, entry: Entry) -> Entry {
    Entry { attempt: Attempt { failed, ..entry.attempt }, ..entry }
}

pub(super) fn with_priority(id: i64, priority: i64) -> Entry {
    Entry { lane: Priority::new(priority).expect("1 to 10").lane(), ..entry(id) }
}

pub(super) fn with_size(id: i64, size: usize) -> Entry {
    let mut body = id.to_string().into_bytes();
    body.resize(size, b' ');
    Entry { body: Some(Bytes::from(body)), ..entry(id) }
}

/// The deliveries that were pushed: session, tag, and the id that the body says.
pub(super) fn pushes(effects: &[Effect]) -> Vec<(u64, u64, i64)> {
    let id = |push: &Push| std::str::from_utf8(&push.body).expect("text").trim().parse().expect("an id");
    let pushed = |effect: &Effect| match effect {
        Effect::Push(session, push) => Some((session.0, push.tag.0, id(push))),
        _ => None,
    };
    effects.iter().filter_map(pushed).collect()
}

pub(super) fn pushed_ids(effects: &[Effect]) -> Vec<i64> {
    pushes(effects).into_iter().map(|(_, _, id)| id).collect()
}

pub(super) fn settles(effects: &[Effect]) -> Vec<Settle> {
    let settle = |effect: &Effect| match effect {
        Effect::Settle(settle) => Some(settle.clone()),
        _ => None,
    };
    effects.iter().filter_map(settle).collect()
}

pub(super) fn outcomes(effects: &[Effect]) -> Vec<(i64, Outcome)> {
    settles(effects).into_iter().map(|s| (s.attempt.delivery_id.0, s.outcome)).collect()
}

pub(super) fn refused(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| matches!(e, Effect::Refuse(..))).count()
}

pub(super) fn acked(effects: &[Effect]) -> Vec<&str> {
    effects.iter().filter_map(|e| if let Effect::Acked(_, r) = e { Some(r.as_str()) } else { None }).collect()
}

/// The lanes of the refill that is asked for.
pub(super) fn refill(effects: &[Effect]) -> Option<Vec<LaneRefill>> {
    whole_refill(effects).map(|refill| refill.lanes)
}

/// All of it.
pub(super) fn whole_refill(effects: &[Effect]) -> Option<Refill> {
    effects.iter().find_map(|e| if let Effect::Refill(r) = e { Some(r.clone()) } else { None })
}

pub(super) fn acquires(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| matches!(e, Effect::Acquire(..))).count()
}

pub(super) fn releases(effects: &[Effect]) -> usize {
    effects.iter().filter(|e| matches!(e, Effect::GiveBack(_))).count()
}

pub(super) fn inbox() -> Arc<str> {
    INBOX.into()
}

/// Removes one of a list, whatever number is said.
pub(in crate::inbox) fn take<T>(from: &mut Vec<T>, which: usize) -> Option<T> {
    (!from.is_empty()).then(|| from.remove(which % from.len()))
}
