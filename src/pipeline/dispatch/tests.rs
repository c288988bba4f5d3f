use prometheus::Registry;

use super::*;
use crate::watch::health::Health;
use postbell_client::message::LANES;
use postbell_engine::inbox::dispatcher::Rules;
use postbell_engine::inbox::event::{Event, LaneRows};
use postbell_engine::inbox::{Attempt, DeliveryId, Entry, Epoch, SessionId};
use postbell_engine::retry::RetryPolicy;

const HOUR: Duration = Duration::from_secs(3_600);

fn rules(unsettled_max: usize) -> Rules {
    let lease_margin = Duration::from_millis(500);
    Rules { ack_deadline: HOUR, retry: RetryPolicy::default(), lease_margin, unsettled_max }
}

/// A delivery that has expired, so that the dispatcher settles it by itself.
fn expired(now: Instant) -> Entry {
    Entry {
        attempt: Attempt { delivery_id: DeliveryId(1), failed: 0 },
        message_id: Uuid::from_u128(1),
        lane: 5,
        read_at: now.into_std(),
        age_when_read: Duration::ZERO,
        ready_when_read: Duration::ZERO,
        expires_at: Some(now.into_std()),
        terms: None,
        body: Some("\"id\":1}".into()),
    }
}

/// Whether the health says that nothing is pushed because of this many outcomes.
fn says(health: &Health, outcomes: usize) -> bool {
    health.stuck(Instant::now()).iter().any(|s| s.contains(&format!("{outcomes} outcomes wait")))
}

#[tokio::test]
async fn the_health_hears_of_the_bound_until_an_outcome_is_written() {
    let now = Instant::now();
    let (inputs, inputs_rx) = mpsc::channel(INPUTS_MAX);
    let (settle, mut settles) = mpsc::channel(1);
    let (mark, _marks) = mpsc::channel(1);
    let (refill, mut refills) = mpsc::channel(1);
    let (lease, mut leases) = mpsc::channel(1);
    let (load, mut loads) = watch::channel(Load::default());
    let (outbox, _lines) = mpsc::channel(OUTBOX_MAX);
    let (metrics, health) = (Metrics::register(&Registry::new()).expect("metrics"), Health::new());
    let ports = Ports { settle, mark, refill, lease, wake: Arc::default() };
    let dispatcher = Dispatcher::new(rules(1), 7);
    let running = tokio::spawn(run(dispatcher, inputs_rx, ports, load, (metrics, health.clone())));
    let tell = async |event| inputs.send(Input::Event(event)).await.expect("it runs");
    let inbox: Arc<str> = "a".into();

    tell(Event::LeaseUntil((now + HOUR).into_std())).await;
    let (hold, link, rank) = (HOUR, false, None);
    let join = Event::Join {
        session: SessionId(1),
        inbox: inbox.clone(),
        instance: None,
        window: 1,
        hold,
        link,
        rank,
    };
    inputs.send(Input::Join(outbox, join)).await.expect("it runs");
    leases.recv().await.expect("it wants the inbox");
    tell(Event::Acquired { inbox: inbox.clone(), epoch: Epoch(1) }).await;
    // Only a round that began after the lease came counts, and the lease comes when the task gets to it.
    tell(Event::TailRound { started_at: (Instant::now() + HOUR).into_std(), snapshot: "1".into() }).await;
    refills.recv().await.expect("it reads the inbox");
    assert!(health.stuck(Instant::now()).is_empty());
    let rows = |lane| if lane == 5 { vec![expired(now)] } else { Vec::new() };
    let lanes = (0..LANES).map(|lane| LaneRows { lane, asked: 1_000, rows: rows(lane) }).collect();
    tell(Event::Refilled { inbox, lanes, keys: Vec::new() }).await;

    let batch = settles.recv().await.expect("an outcome");
    loads.wait_for(|load| load.unsettled == 1).await.expect("it runs");
    assert!(says(&health, 1), "{:?}", health.stuck(Instant::now()));
    tell(Event::Settled(batch)).await;
    loads.wait_for(|load| load.unsettled == 0).await.expect("it runs");
    assert!(health.stuck(Instant::now()).is_empty());
    drop(inputs);
    running.await.expect("no panic");
}
