//! An agent that leaves in order is blamed for what it had in hand, and for nothing that was on its way to it.

use serde_json::Value;
use tokio::time::timeout;

use crate::harness::{TestDb, migrated};
use crate::held_sends::to;
use crate::mesh::{Mesh, PATIENCE, insert, next};

/// Failed attempts by payload, once nobody owns the inbox of `a` any more: then all outcomes are written.
async fn attempts(db: &TestDb) -> Vec<String> {
    db.until("select count(*) = 0 from postbell.leases where inbox = 'a'").await;
    let attempts = "select coalesce(array_agg(payload::text || ': ' || attempt order by payload::text), '{}')
                    from postbell.deliveries join agent_messages using (message_id) where inbox = 'a'";
    db.ask(attempts).await
}

#[tokio::test]
async fn a_delivery_that_crosses_the_goodbye_keeps_its_attempts() {
    let mesh = Mesh::start().await;
    let (client, _deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    mesh.until_metric("postbell_in_flight", |n| n == 1.0).await;
    // The delivery was written before this answer.
    timeout(PATIENCE, client.send(to("r", &1))).await.expect("answered").expect("stored");
    client.close().await;
    assert_eq!(attempts(&mesh.db).await, ["1: 0"]);
}

#[tokio::test]
async fn what_was_in_hand_at_the_goodbye_is_blamed_alone() {
    let mesh = Mesh::start().await;
    let (client, mut deliveries) = mesh.connect("a", 5).await;
    for payload in ["1", "2", "3"] {
        insert(&mesh.db.sql().await, "a", 5, payload).await;
    }
    next(&mut deliveries).await.ack_confirmed().await.expect("acked");
    let held = next(&mut deliveries).await;
    mesh.until_metric("postbell_in_flight", |n| n == 2.0).await;
    client.close().await;
    assert_eq!(attempts(&mesh.db).await, ["2: 1", "3: 0"]);
    drop(held);
}

/// All in one write: the session ends before its link has passed anything on.
#[tokio::test]
async fn over_a_link_the_last_words_are_passed_on() {
    let db = migrated().await;
    let (one, two) = (Mesh::on(db.clone(), &[]).await, Mesh::on(db, &[]).await);
    let token = one.db.agent("a").await;
    let near = one.raw_with("a", &token, 0).await;
    one.db.until("select count(*) = 1 from postbell.leases where inbox = 'a'").await;
    let mut far = two.raw_with("a", &token, 5).await;
    let sql = one.db.sql().await;
    for payload in ["1", "2", "3"] {
        insert(&sql, "a", 5, payload).await;
    }
    for tag in 1..=3 {
        assert_eq!(far.expect("msg").await["tag"], Value::from(tag));
    }
    far.say("{\"op\":\"ack\",\"tag\":1}\n{\"op\":\"begun\",\"tag\":0}\n{\"op\":\"bye\"}").await;
    one.db.until("select count(*) = 1 from agent_messages where status = 'processed'").await;
    one.until_metric("postbell_in_flight", |n| n == 0.0).await;
    drop(near);
    assert_eq!(attempts(&one.db).await, ["2: 0", "3: 0"]);
}
