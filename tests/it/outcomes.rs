//! The end of a delivery: each outcome, deadlines, stale acks.

use std::time::Duration;

use crate::mesh::{Mesh, insert, next};

#[tokio::test]
async fn a_release_is_not_counted_and_a_failure_is() {
    let mesh = Mesh::with(&[("POSTBELL_RETRY_BASE_MS", "1")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.attempt(), 1);
    delivery.release(Duration::ZERO).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.attempt(), 1);
    delivery.fail("no luck", None).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.attempt(), 2);
    assert_eq!(mesh.db.ask::<String>("select last_error from postbell.deliveries").await, "no luck");
    delivery.fail("still none", Some(Duration::from_millis(50))).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.attempt(), 3);
    delivery.ack_confirmed().await.unwrap();
    assert_eq!(mesh.metric("postbell_failed_total{reason=\"nack\"}").await, 2.0);
}

#[tokio::test]
async fn the_last_attempt_ends_in_the_dead_letters_with_the_reason() {
    let mesh = Mesh::with(&[("POSTBELL_RETRY_BASE_MS", "1"), ("POSTBELL_MAX_ATTEMPTS", "3")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    for attempt in 1..=3 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.attempt(), attempt);
        delivery.fail("broken", None).await;
    }
    mesh.db
        .until(
            "select count(*) = 1 from postbell.deliveries
             where state = 'dead' and attempt = 3 and last_error like 'broken%'",
        )
        .await;
    let failed = "select status = 'failed' and error_message like 'broken%' from agent_messages";
    mesh.db.until(failed).await;
    mesh.until_metric("postbell_dead_total{reason=\"max_attempts\"}", |n| n == 1.0).await;
}

#[tokio::test]
async fn dead_is_dead_at_once_and_the_inbox_goes_on() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 1).await;
    let sql = mesh.db.sql().await;
    insert(&sql, "a", 5, "1").await;
    insert(&sql, "a", 5, "2").await;
    next(&mut deliveries).await.dead("unreadable").await;
    assert_eq!(next(&mut deliveries).await.payload(), "2");
    mesh.db
        .until(
            "select count(*) = 1 from postbell.deliveries where state = 'dead' and last_error = 'unreadable'",
        )
        .await;
    mesh.until_metric("postbell_dead_total{reason=\"rejected\"}", |n| n == 1.0).await;
}

#[tokio::test]
async fn a_delivery_that_is_dropped_comes_again() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    drop(next(&mut deliveries).await);
    assert_eq!(next(&mut deliveries).await.attempt(), 1);
}

#[tokio::test]
async fn a_deadline_that_passes_is_a_failure_and_its_ack_comes_too_late() {
    let mesh = Mesh::with(&[("POSTBELL_ACK_DEADLINE_SECONDS", "1"), ("POSTBELL_RETRY_BASE_MS", "1")]).await;
    let mut raw = mesh.raw("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let first = raw.expect("msg").await;
    assert_eq!((first["attempt"].as_u64(), first["deadline_ms"].as_u64()), (Some(1), Some(1_000)));
    let second = raw.expect("msg").await;
    assert_eq!((second["attempt"].as_u64(), second["id"] == first["id"]), (Some(2), true));
    raw.say(r#"{"op":"ack","tag":1,"ref":"late"}"#).await;
    let error = raw.expect_error("unknown_tag", false).await;
    assert_eq!(error["ref"], "late");
    assert_eq!(
        mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await,
        1,
        "the stale ack settled"
    );
    raw.say(r#"{"op":"ack","tag":2,"ref":"good"}"#).await;
    assert_eq!(raw.expect("acked").await["ref"], "good");
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await, 0);
    assert_eq!(mesh.metric("postbell_failed_total{reason=\"deadline\"}").await, 1.0);
}

#[tokio::test]
async fn an_extended_deadline_holds() {
    let mesh = Mesh::with(&[("POSTBELL_ACK_DEADLINE_SECONDS", "1"), ("POSTBELL_RETRY_BASE_MS", "1")]).await;
    let mut raw = mesh.raw("a", 5).await;
    let sql = mesh.db.sql().await;
    insert(&sql, "a", 5, "1").await;
    insert(&sql, "a", 5, "2").await;
    raw.expect("msg").await;
    raw.expect("msg").await;
    raw.say(r#"{"op":"extend","tag":1,"ms":60000}"#).await;
    // The other delivery's deadline passes meanwhile; the extended one does not come.
    let again = raw.expect("msg").await;
    assert_eq!((again["payload"].as_u64(), again["attempt"].as_u64()), (Some(2), Some(2)));
    raw.say(r#"{"op":"ack","tag":1,"ref":"r"}"#).await;
    assert_eq!(raw.expect("acked").await["ref"], "r");
    raw.say(r#"{"op":"extend","tag":1,"ms":1000}"#).await;
    raw.expect_error("unknown_tag", false).await;
}

#[tokio::test]
async fn the_client_extends_what_its_agent_still_holds() {
    let mesh = Mesh::with(&[("POSTBELL_ACK_DEADLINE_SECONDS", "1")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let delivery = next(&mut deliveries).await;
    // The broker marks a delivery after about a second; a second and a half later its first deadline has passed.
    mesh.db
        .until("select delivered_at < clock_timestamp() - interval '1.5 seconds' from agent_messages")
        .await;
    delivery.ack_confirmed().await.expect("still ours");
    assert_eq!(mesh.metric("postbell_failed_total{reason=\"deadline\"}").await, 0.0);
}

#[tokio::test]
async fn a_message_is_marked_delivered_only_when_it_takes_longer() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let delivery = next(&mut deliveries).await;
    mesh.db.until("select status = 'delivered' and delivered_at is not null from agent_messages").await;
    delivery.fail("later", Some(Duration::from_secs(3_600))).await;
    mesh.db.until("select status = 'pending' from agent_messages").await;
    assert_eq!(
        mesh.db.ask::<i64>("select count(*) from postbell.deliveries where state = 'scheduled'").await,
        1
    );
}

#[tokio::test]
async fn a_disconnect_fails_what_was_in_flight_without_delay() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let mut raw = mesh.raw_with("a", &token, 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    raw.expect("msg").await;
    drop(raw);
    let mut raw = mesh.raw_with("a", &token, 5).await;
    assert_eq!(raw.expect("msg").await["attempt"], 2);
    let reason: String = mesh.db.ask("select last_error from postbell.deliveries").await;
    assert!(reason.contains("disconnected"), "{reason}");
}

#[tokio::test]
async fn a_poller_of_the_old_kind_that_settles_a_message_takes_its_delivery() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    insert(&sql, "polls", 5, "1").await;
    sql.batch_execute("update agent_messages set status = 'processed', processed_at = now()").await.unwrap();
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await, 0);
}
