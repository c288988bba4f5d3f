//! The Rust client against brokers and agents that misbehave: a fault costs one message or one request, never the
//! client.

mod examples;
pub(crate) mod fake;
mod frozen;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use postbell_client::message::MessageType;
use postbell_client::protocol::ErrorCode;
use postbell_client::{Client, ClientError, Deliveries, Outgoing, State};
use tokio::time::timeout;
use tracing_subscriber::fmt::MakeWriter;

use crate::mesh::{Mesh, PATIENCE, insert, next};
use fake::{Fake, Peer, msg};

fn to_a(payload: &impl serde::Serialize) -> Outgoing {
    Outgoing::new("a", MessageType::Data, payload).expect("JSON")
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it comes to an end")
}

/// The client's log, on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("whole")).into_owned()
    }

    fn listen(&self) -> tracing::subscriber::DefaultGuard {
        let lines = tracing_subscriber::fmt().with_writer(self.clone()).with_ansi(false).finish();
        tracing::subscriber::set_default(lines)
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("whole").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

async fn connected(fake: &Fake) -> (Client, Deliveries, Peer) {
    let (connected, peer) = tokio::join!(fake.builder().connect(), fake.welcome());
    let (client, deliveries) = connected.expect("connects");
    (client, deliveries, peer)
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_dead_and_its_neighbours_come() {
    let fake = Fake::start().await;
    let (client, mut deliveries, mut peer) = connected(&fake).await;
    let good = |tag| msg(tag, r#""payload":1"#);
    let broken: Vec<String> = vec![
        good(1).replace(r#""priority":5"#, r#""priority":5000"#),
        good(2).replace(r#""from":"s""#, r#""from":null"#),
        good(3).replace(r#""from":"s""#, r#""from":"\ud800""#),
        good(4).replace(r#""attempt":1"#, r#""attempt":"one""#),
        good(5).replace("00000000", "no uuid"),
        msg(6, r#""payload":1,"topic":{}"#),
        msg(7, r#""headers":{}"#),
        msg(8, r#""payload":"\x""#),
        msg(9, r#""payload":[1,]"#),
        msg(10, r#""payload":1,"payload":2"#),
    ];
    for line in &broken {
        peer.say(line).await;
    }
    for tag in 1..=broken.len() as u64 {
        let nack = within(peer.heard("nack")).await;
        assert_eq!((nack["tag"].as_u64(), nack["outcome"].as_str()), (Some(tag), Some("dead")), "{nack}");
        let reason = nack["reason"].as_str().expect("a reason");
        assert!(reason.contains("cannot read the message: "), "{reason}");
        assert!(!reason.contains("invalid") && !reason.contains("expected"), "a library's words: {reason}");
    }
    assert_eq!(client.unreadable(), broken.len() as u64);
    // Nothing can be said about these lines, and nothing is said.
    for line in ["no JSON", "[]", r#"{"op":7}"#, &good(0).replace(r#""tag":0"#, r#""tag":"x""#)] {
        peer.say(line).await;
    }
    // Payloads that are costly elsewhere are JSON all the same; fields of a newer broker are ignored.
    let dear = [
        "1e99999".to_owned(),
        "7".repeat(5_000),
        format!("{}{}", "[".repeat(2_000), "]".repeat(2_000)),
        r#""\ud800""#.to_owned(),
    ];
    for (n, payload) in dear.iter().enumerate() {
        peer.say(&msg(20 + n as u64, &format!(r#""novelty":[],"payload":{payload}"#))).await;
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), payload);
        if let Err(e) = delivery.payload_as::<f64>() {
            assert!(e.to_string().contains("is no f64, from line 1, column "), "{e}");
        }
        delivery.ack().await;
        assert_eq!(within(peer.heard("ack")).await["tag"], 20 + n as u64);
    }
    assert!(matches!(*client.state().borrow(), State::Connected { .. }));
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_fails_its_request_alone() {
    let fake = Fake::start().await;
    let (client, _deliveries, mut peer) = connected(&fake).await;
    let sending = tokio::spawn({
        let client = client.clone();
        async move { client.send(to_a(&1)).await }
    });
    let reference = within(peer.heard("send")).await["ref"].clone();
    peer.say(&format!(r#"{{"op":"sent","ref":{reference},"id":7}}"#)).await;
    match within(sending).await.expect("no panic") {
        Err(e @ ClientError::Protocol(_)) => assert!(!e.to_string().contains("UUID"), "{e}"),
        other => panic!("{other:?}"),
    }
    let locking = tokio::spawn({
        let client = client.clone();
        async move { client.lock("k", Duration::from_secs(9)).await }
    });
    let reference = within(peer.heard("acquire")).await["ref"].clone();
    peer.say(&format!(r#"{{"op":"lock","ref":{reference},"key":"k","held":"maybe"}}"#)).await;
    assert!(matches!(within(locking).await.expect("no panic"), Err(ClientError::Protocol(_))));
    assert!(matches!(*client.state().borrow(), State::Connected { .. }));
}

/// No clock can count as far as these numbers.
#[tokio::test]
async fn no_number_of_the_brokers_ends_the_client() {
    let fake = Fake::start().await;
    let (connected, mut peer) = tokio::join!(fake.builder().connect(), fake.welcome_with(0));
    let (client, mut deliveries) = connected.expect("connects");
    let most = u64::MAX;
    peer.say(&msg(most, r#""payload":1"#).replace("30000", &most.to_string())).await;
    assert_eq!(next(&mut deliveries).await.payload(), "1");
    let sending = tokio::spawn({
        let client = client.clone();
        async move { client.send(to_a(&1)).await }
    });
    let reference = within(peer.heard("send")).await["ref"].clone();
    peer.say(&format!(
        r#"{{"op":"error","ref":{reference},"code":"slow_down","fatal":false,"retry_ms":{most},"message":"later"}}"#
    ))
    .await;
    peer.say(&msg(1, r#""payload":2"#)).await;
    assert_eq!(next(&mut deliveries).await.payload(), "2");
    sending.abort();
    peer.say(&format!(r#"{{"op":"drain","after_ms":{most}}}"#)).await;
    peer.say(&msg(2, r#""payload":3"#)).await;
    assert_eq!(next(&mut deliveries).await.payload(), "3");
}

#[tokio::test]
async fn a_fatal_error_ends_everything_with_its_sentence() {
    let fake = Fake::start().await;
    let (client, mut deliveries, mut peer) = connected(&fake).await;
    peer.say(&msg(1, r#""payload":1"#)).await;
    let delivery = next(&mut deliveries).await;
    let mut waiting = tokio::task::JoinSet::new();
    let of = |client: &Client| client.clone();
    let (one, two, three, four) = (of(&client), of(&client), of(&client), of(&client));
    waiting.spawn(async move { one.send(to_a(&1)).await.map(drop) });
    waiting.spawn(async move { two.lock("k", Duration::from_secs(9)).await.map(drop) });
    waiting.spawn(async move { three.subscribe("county.>").await });
    waiting.spawn(async move { four.request(to_a(&1), PATIENCE).await.map(drop) });
    waiting.spawn(async move { delivery.ack_confirmed().await });
    for _ in 0..5 {
        within(peer.anything()).await;
    }
    let end = r#"{"op":"error","code":"disabled","fatal":true,"message":"the agent was disabled"}"#;
    peer.say(end).await;
    while let Some(ended) = within(waiting.join_next()).await {
        match ended.expect("no panic") {
            Err(ClientError::Refused { code: ErrorCode::Disabled, message, .. }) => {
                assert_eq!(message, "the agent was disabled");
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(within(deliveries.next()).await.is_none());
    let late = within(client.send(to_a(&1))).await.expect_err("closed").to_string();
    assert!(late.contains("the agent was disabled"), "{late}");
}

#[tokio::test]
async fn what_is_too_large_is_refused_here_and_the_client_goes_on() {
    let mesh = Mesh::start().await;
    let (client, _deliveries) = mesh.connect("a", 0).await;
    let huge = "x".repeat(2_000_000);
    for message in [to_a(&huge), to_a(&1).headers(&serde_json::json!({"h": huge})).expect("JSON")] {
        match within(client.send(message)).await {
            Err(ClientError::Refused { code: ErrorCode::PayloadTooLarge, message, .. }) => {
                assert!(message.contains("this broker takes"), "{message}");
            }
            other => panic!("{other:?}"),
        }
    }
    within(client.lock(&huge, Duration::from_secs(9))).await.expect_err("too long a key");
    within(client.send(to_a(&1))).await.expect("sent");
}

#[tokio::test]
async fn a_reason_of_any_length_is_cut() {
    let mesh = Mesh::with(&[("POSTBELL_RETRY_BASE_MS", "1")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    next(&mut deliveries).await.fail(&"é\0".repeat(1_000_000), None).await;
    assert_eq!(next(&mut deliveries).await.attempt(), 2);
}

#[tokio::test]
async fn a_handler_that_panics_has_failed_its_attempt() {
    let mesh = Mesh::with(&[("POSTBELL_RETRY_BASE_MS", "1")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let delivery = next(&mut deliveries).await;
    let handler = tokio::spawn(async move {
        tokio::task::yield_now().await;
        assert_eq!(delivery.payload(), "2", "on purpose");
    });
    assert!(handler.await.expect_err("it panics").is_panic());
    let again = next(&mut deliveries).await;
    assert_eq!(again.attempt(), 2);
    let why = "select last_error from postbell.deliveries";
    assert_eq!(mesh.db.ask::<String>(why).await, "its handler panicked");
    again.ack().await;
}

/// A handler that leaves by `?` each time must not make its message come again for ever.
#[tokio::test]
async fn what_is_dropped_twice_has_failed() {
    let mesh = Mesh::with(&[("POSTBELL_RETRY_BASE_MS", "1"), ("POSTBELL_MAX_ATTEMPTS", "2")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let mut attempts = Vec::new();
    for _ in 0..3 {
        attempts.push(next(&mut deliveries).await.attempt());
    }
    assert_eq!(attempts, [1, 1, 2]);
    mesh.db.until("select count(*) = 1 from postbell.deliveries where state = 'dead' and last_error like '%without an outcome%'").await;
}

#[tokio::test]
async fn what_is_asked_while_the_broker_is_away_waits_and_outcomes_do_not() {
    let fake = Fake::start().await;
    let (client, mut deliveries, mut peer) = connected(&fake).await;
    // More than the queue of orders holds.
    const HELD: u64 = 1_500;
    for tag in 1..=HELD {
        peer.say(&msg(tag, r#""payload":1"#)).await;
    }
    let mut held = Vec::new();
    while held.len() < HELD as usize {
        held.push(next(&mut deliveries).await);
    }
    drop(peer);
    let mut state = client.state();
    within(state.wait_for(|state| *state == State::Reconnecting)).await.expect("open");
    for delivery in held {
        within(delivery.ack()).await;
    }
    client.set_window(7).await.expect("open");
    let mut receipts = Vec::new();
    for n in 0..3 {
        receipts.push(within(client.submit(to_a(&n))).await.expect("open"));
    }
    let subscribing = tokio::spawn(async move { client.subscribe("county.>").await });
    let mut peer = within(fake.welcome()).await;
    let (mut sent, mut others) = (Vec::new(), Vec::new());
    while sent.len() < 3 || others.len() < 2 {
        let line = within(peer.anything()).await;
        let reference = &line["ref"];
        match line["op"].as_str().expect("an op") {
            "send" => {
                let n = line["payload"].as_u64().expect("a number");
                let id = uuid::Uuid::from_u128(n.into());
                peer.say(&format!(r#"{{"op":"sent","ref":{reference},"id":"{id}"}}"#)).await;
                sent.push(n);
            }
            "subscribe" => {
                peer.say(&format!(r#"{{"op":"subscribed","ref":{reference},"topic":"county.>"}}"#)).await;
                others.push("subscribe".to_owned());
            }
            "window" => others.push(line["n"].to_string()),
            other => panic!("{other}: outcomes of another connection mean nothing here"),
        }
    }
    others.sort();
    assert_eq!((sent, others), (vec![0, 1, 2], vec!["7".to_owned(), "subscribe".to_owned()]));
    for (n, receipt) in (0..).zip(receipts) {
        assert_eq!(within(receipt.committed()).await, Ok(uuid::Uuid::from_u128(n)));
    }
    within(subscribing).await.expect("no panic").expect("subscribed");
}

#[tokio::test]
async fn a_client_is_closed_at_once_while_its_broker_is_away() {
    let fake = Fake::start().await;
    let (client, mut deliveries, peer) = connected(&fake).await;
    drop(peer);
    let mut state = client.state();
    within(state.wait_for(|state| *state == State::Reconnecting)).await.expect("open");
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.send(to_a(&1)).await }
    });
    tokio::task::yield_now().await;
    within(client.close()).await;
    assert_eq!(within(waiting).await.expect("no panic"), Err(ClientError::Closed));
    assert!(within(deliveries.next()).await.is_none());
}

#[tokio::test]
async fn what_was_sent_is_sent_though_everybody_let_go() {
    let mesh = Mesh::start().await;
    let (client, deliveries) = mesh.connect("s", 0).await;
    mesh.db.agent("a").await;
    for n in 0..2_000 {
        drop(client.submit(to_a(&n)).await.expect("open"));
    }
    drop((client, deliveries));
    mesh.db.until("select count(*) = 2000 from agent_messages").await;
}

#[tokio::test]
async fn who_takes_no_deliveries_any_more_is_pushed_none() {
    let fake = Fake::start().await;
    let (_client, deliveries, mut peer) = connected(&fake).await;
    drop(deliveries);
    peer.say(&msg(1, r#""payload":1"#)).await;
    assert_eq!(within(peer.heard("window")).await["n"], 0);
    assert_eq!(within(peer.heard("nack")).await["outcome"], "release");
}

#[tokio::test]
async fn a_runtime_that_was_blocked_is_told_of_with_what_was_held() {
    let log = Log::default();
    let _listening = log.listen();
    let fake = Fake::start().await;
    let (_client, mut deliveries, mut peer) = connected(&fake).await;
    peer.say(&msg(1, r#""payload":1"#).replace("30000", "400")).await;
    let delivery = next(&mut deliveries).await;
    // The client has begun to look at the clock by then.
    within(peer.heard("extend")).await;
    std::thread::sleep(Duration::from_secs(1));
    within(async {
        while !log.text().contains("the runtime was blocked") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert!(log.text().contains(&delivery.id().to_string()), "{}", log.text());
}

#[tokio::test]
async fn a_deadline_that_passes_is_told_of() {
    let log = Log::default();
    let _listening = log.listen();
    let fake = Fake::start().await;
    let builder = fake.builder().auto_extend(false);
    let (connected, mut peer) = tokio::join!(builder.connect(), fake.welcome());
    let (_client, mut deliveries) = connected.expect("connects");
    peer.say(&msg(1, r#""payload":1"#).replace("30000", "100")).await;
    let _delivery = next(&mut deliveries).await;
    within(async {
        while !log.text().contains("the deadline of a message passed") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}
