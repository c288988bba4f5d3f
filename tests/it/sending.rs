//! Sending through the broker.

use std::time::Duration;

use postbell_client::message::{MessageType, Priority};
use postbell_client::{ClientError, Outgoing};

use crate::mesh::{Mesh, next};

fn to(agent: &str, payload: &impl serde::Serialize) -> Outgoing {
    Outgoing::new(agent, MessageType::Command, payload).unwrap()
}

#[tokio::test]
async fn sent_is_committed_and_in_order() {
    let mesh = Mesh::start().await;
    let (sender, _) = mesh.connect("s", 0).await;
    let (_client, mut deliveries) = mesh.connect("a", 1_000).await;
    let mut receipts = Vec::new();
    for n in 0..500 {
        receipts.push(sender.submit(to("a", &n)).await.unwrap());
    }
    let mut ids = Vec::new();
    for receipt in receipts {
        ids.push(receipt.committed().await.unwrap());
    }
    assert_eq!(
        mesh.db.ask::<i64>("select count(*) from agent_messages where from_agent_id = 's'").await,
        500
    );
    for (n, id) in ids.iter().enumerate() {
        let delivery = next(&mut deliveries).await;
        assert_eq!((delivery.payload(), delivery.id()), (n.to_string().as_str(), *id));
        delivery.ack().await;
    }
}

#[tokio::test]
async fn every_field_arrives() {
    let mesh = Mesh::start().await;
    let (sender, _) = mesh.connect("s", 0).await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    let message = to("a", &serde_json::json!({"x": null}))
        .priority(Priority::new(1).unwrap())
        .ttl(Duration::from_secs(3_600))
        .correlation_id("c")
        .headers(&serde_json::json!({"traceparent": "00-1-2-01"}))
        .unwrap();
    let id = sender.send(message).await.unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!((delivery.id(), delivery.from(), delivery.priority()), (id, "s", 1));
    assert_eq!(delivery.payload(), r#"{"x": null}"#);
    assert_eq!(delivery.correlation_id(), Some("c"));
    assert!(delivery.headers().unwrap().get().contains("00-1-2-01"));
    assert!(
        mesh.db.ask::<bool>("select expires_at > now() + interval '50 minutes' from agent_messages").await
    );
}

#[tokio::test]
async fn the_same_dedupe_key_from_the_same_sender_is_the_same_message() {
    let mesh = Mesh::start().await;
    let (one, _) = mesh.connect("one", 0).await;
    let (two, _) = mesh.connect("two", 0).await;
    let first = one.send(to("a", &1).dedupe_key("k")).await.unwrap();
    assert_eq!(one.send(to("a", &2).dedupe_key("k")).await.unwrap(), first);
    assert_ne!(
        two.send(to("a", &3).dedupe_key("k")).await.unwrap(),
        first,
        "another sender's key is another's"
    );
    // A key is found within one batch as well.
    let receipts =
        [one.submit(to("a", &4).dedupe_key("m")).await, one.submit(to("a", &5).dedupe_key("m")).await];
    let [a, b] = receipts.map(Result::unwrap);
    assert_eq!(a.committed().await.unwrap(), b.committed().await.unwrap());
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages").await, 3);
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await, 3);
}

#[tokio::test]
async fn a_delayed_message_waits() {
    let mesh = Mesh::start().await;
    let (sender, _) = mesh.connect("s", 0).await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    sender.send(to("a", &"delayed").delay(Duration::from_millis(300))).await.unwrap();
    sender.send(to("a", &"at once")).await.unwrap();
    for _ in 0..2 {
        let delivery = next(&mut deliveries).await;
        if delivery.payload() == "\"delayed\"" {
            let early =
                "select deliver_at > clock_timestamp() from agent_messages where deliver_at is not null";
            assert!(!mesh.db.ask::<bool>(early).await);
        }
        delivery.ack().await;
    }
}

#[tokio::test]
async fn a_message_to_oneself_arrives_like_any_other() {
    let mesh = Mesh::start().await;
    let (client, mut deliveries) = mesh.connect("a", 5).await;
    let id = client.send(to("a", &"note")).await.unwrap();
    assert_eq!(next(&mut deliveries).await.id(), id);
}

#[tokio::test]
async fn one_message_that_the_database_refuses_does_not_take_its_neighbours_along() {
    let mesh = Mesh::start().await;
    let (sender, _) = mesh.connect("s", 0).await;
    let mut receipts = Vec::new();
    for n in 0..20 {
        // jsonb cannot hold the zero character.
        let payload = if n == 7 { "bad \0".to_owned() } else { n.to_string() };
        receipts.push(sender.submit(to("a", &payload)).await.unwrap());
    }
    for (n, receipt) in receipts.into_iter().enumerate() {
        match receipt.committed().await {
            Ok(_) => assert_ne!(n, 7),
            Err(ClientError::Refused { code, message, .. }) => {
                assert_eq!((n, code.as_str()), (7, "rejected"), "{message}");
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages").await, 19);
}
