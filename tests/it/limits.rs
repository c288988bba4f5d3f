//! The limits on an agent's sends, in kind and amount: each rule, and each forbidden thing tried.

use std::time::Duration;

use postbell::store::agents::{RoleLimits, authenticate};
use postbell_client::message::MessageType;
use postbell_client::protocol::ErrorCode;
use postbell_client::{ClientError, Outgoing};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::harness::migrated;
use crate::mesh::{Mesh, PATIENCE, Raw};

/// A broker whose agents have these limits and no others.
async fn limited(limits: &str) -> Mesh {
    let db = migrated().await;
    let none = "update postbell.role_limits set sends_per_second = null, sends_burst = null,
                send_bytes_per_second = null, send_bytes_burst = null, publishes_outstanding = null,
                connections = null";
    let sql = db.sql().await;
    sql.batch_execute(none).await.unwrap();
    sql.batch_execute(&format!("update postbell.role_limits set {limits} where role = 'agent'"))
        .await
        .unwrap();
    Mesh::on(db, &[]).await
}

fn send(reference: usize, bytes: usize) -> String {
    let payload = "x".repeat(bytes - 2);
    format!(r#"{{"op":"send","ref":"{reference}","to":"b","type":"data","payload":"{payload}"}}"#)
}

#[tokio::test]
async fn only_an_orchestrator_sends_to_everybody() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    let everybody = r#"{"op":"send","ref":"all","to":"*","type":"alert","payload":1}"#;
    let mut agent = mesh.raw("a", 0).await;
    agent.say(everybody).await;
    let error = agent.expect_error("forbidden", false).await;
    assert_eq!(error["ref"], "all");
    let sentence = "a may not send to everybody: that takes the role orchestrator";
    assert!(error["message"].as_str().unwrap().starts_with(sentence), "{error}");
    agent.say(&send(1, 10)).await;
    agent.expect("sent").await;

    // An adopted registry may have role names of its own.
    sql.batch_execute("alter table agent_registry drop constraint agent_registry_role_check").await.unwrap();
    let token = mesh.db.agent("w").await;
    sql.batch_execute("update agent_registry set role = 'Orchestrator' where agent_id = 'w'").await.unwrap();
    let mut other = mesh.raw_with("w", &token, 0).await;
    other.say(everybody).await;
    other.expect_error("forbidden", false).await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages where to_agent_id is null").await, 0);

    let token = mesh.db.agent_as("o", Some("orchestrator")).await;
    let mut orchestrator = mesh.raw_with("o", &token, 0).await;
    orchestrator.say(everybody).await;
    orchestrator.expect("sent").await;

    let (client, _deliveries) = mesh.connect("c", 0).await;
    let refused =
        client.send(Outgoing::new("*", MessageType::Alert, &1).unwrap()).await.expect_err("forbidden");
    assert!(!refused.is_retryable(), "{refused}");
}

#[tokio::test]
async fn bytes_over_the_limit_are_refused_whole_and_connecting_again_gives_none() {
    let mesh = limited("send_bytes_per_second = 1, send_bytes_burst = 10000").await;
    let token = mesh.db.agent("a").await;
    let mut raw = mesh.raw_with("a", &token, 5).await;
    for (n, bytes) in [(1, 6_000), (2, 3_000)] {
        raw.say(&send(n, bytes)).await;
        assert_eq!(raw.expect("sent").await["ref"], n.to_string());
    }
    raw.say(&send(3, 4_000)).await;
    let error = raw.expect_error("slow_down", false).await;
    assert_eq!(error["ref"], "3");
    let retry_ms = error["retry_ms"].as_u64().expect("a number");
    assert!((1_000_000..=3_000_000).contains(&retry_ms), "{error}");
    // Only sends are limited, and a small message passes.
    raw.say(r#"{"op":"ping"}"#).await;
    raw.expect("pong").await;
    raw.say(&send(4, 500)).await;
    raw.expect("sent").await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages").await, 3);

    raw.say(r#"{"op":"bye"}"#).await;
    assert_eq!(raw.line().await, None);
    let mut again = mesh.raw_with("a", &token, 5).await;
    again.say(&send(5, 4_000)).await;
    again.expect_error("slow_down", false).await;
    // All connections of an agent share its quota; another agent has its own.
    let mut second = mesh.raw_with("a", &token, 5).await;
    second.say(&send(6, 4_000)).await;
    second.expect_error("slow_down", false).await;
    let mut other = mesh.raw("other", 5).await;
    other.say(&send(7, 4_000)).await;
    other.expect("sent").await;
    // New limits are read at the next hello; quota that was used stays used.
    let more = "update postbell.role_limits set send_bytes_burst = 100000 where role = 'agent'";
    mesh.db.sql().await.batch_execute(more).await.unwrap();
    let mut third = mesh.raw_with("a", &token, 5).await;
    third.say(&send(8, 4_000)).await;
    third.expect("sent").await;
}

#[tokio::test]
async fn messages_over_the_rate_are_refused_and_not_stored() {
    let mesh = limited("sends_per_second = 1, sends_burst = 3").await;
    let mut raw = mesh.raw("a", 0).await;
    let lines: String = (0..200).map(|n| send(n, 10) + "\n").collect();
    raw.write.write_all(lines.as_bytes()).await.unwrap();
    let (mut sent, mut refused) = (0, 0);
    for _ in 0..200 {
        let answer: serde_json::Value = serde_json::from_str(&raw.line().await.unwrap()).unwrap();
        match (answer["op"].as_str(), answer["code"].as_str()) {
            (Some("sent"), _) => sent += 1,
            (Some("error"), Some("slow_down")) => refused += 1,
            _ => panic!("{answer}"),
        }
    }
    assert!(sent >= 3 && refused > 0, "{sent} sent, {refused} refused");
    let counted = mesh.metric("postbell_sends_refused_total{code=\"slow_down\"}").await;
    assert_eq!(counted, f64::from(refused));
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages").await, sent);
}

#[tokio::test]
async fn the_client_sends_again_what_was_refused_and_nobody_notices() {
    let mesh = limited("sends_per_second = 400, sends_burst = 5").await;
    let (client, _deliveries) = mesh.connect("a", 0).await;
    let mut receipts = Vec::new();
    for n in 0..300 {
        receipts.push(client.submit(Outgoing::new("b", MessageType::Data, &n).unwrap()).await.unwrap());
    }
    for receipt in receipts {
        timeout(PATIENCE, receipt.committed()).await.expect("in time").expect("stored");
    }
    let counts = "select count(*) = 300 and count(distinct payload) = 300 from agent_messages";
    assert!(mesh.db.ask::<bool>(counts).await, "each once");
}

#[tokio::test]
async fn what_is_not_answered_yet_is_bounded() {
    let mesh = limited("publishes_outstanding = 2").await;
    let token = mesh.db.agent("a").await;
    let (mut raw, mut second) = (mesh.raw_with("a", &token, 0).await, mesh.raw_with("a", &token, 0).await);
    let mut sql = mesh.db.sql().await;
    let held = sql.transaction().await.unwrap();
    held.batch_execute("lock table agent_messages in share mode").await.unwrap();
    raw.say(&send(1, 10)).await;
    raw.say(r#"{"op":"ping"}"#).await;
    raw.expect("pong").await;
    second.say(&send(2, 10)).await;
    second.say(r#"{"op":"ping"}"#).await;
    second.expect("pong").await;
    raw.say(&send(3, 10)).await;
    assert_eq!(raw.expect_error("slow_down", false).await["retry_ms"], 50);
    held.rollback().await.unwrap();
    assert_eq!(raw.expect("sent").await["ref"], "1");
    assert_eq!(second.expect("sent").await["ref"], "2");
    raw.say(&send(4, 10)).await;
    raw.expect("sent").await;
}

#[tokio::test]
async fn connections_are_counted_and_one_that_is_taken_over_is_not() {
    let mesh = limited("connections = 2").await;
    let token = mesh.db.agent("a").await;
    let hello =
        |instance: &str| format!(r#"{{"op":"hello","agent":"a","token":"{token}","instance":"{instance}"}}"#);
    let mut first = Raw::open(mesh.agents).await;
    first.say(&hello("one")).await;
    first.expect("welcome").await;
    let second = mesh.raw_with("a", &token, 0).await;
    let mut third = Raw::open(mesh.agents).await;
    third.say(&hello("two")).await;
    let error = third.expect_error("too_many_connections", true).await;
    assert_eq!(error["message"], "a has 2 connections to this broker, as many as its role allows");
    let mut newer = Raw::open(mesh.agents).await;
    newer.say(&hello("one")).await;
    newer.expect("welcome").await;
    first.expect_error("taken_over", true).await;
    drop(second);
    // A client tries again by itself until there is room.
    let connected = async {
        loop {
            match mesh.builder("a", &token).connect().await {
                Ok(client) => return client,
                Err(ClientError::Refused { code: ErrorCode::TooManyConnections, .. }) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Err(e) => panic!("{e}"),
            }
        }
    };
    timeout(PATIENCE, connected).await.expect("a connection was free");
    mesh.raw("other", 0).await;
}

#[tokio::test]
async fn limits_are_those_of_the_role_or_else_of_agents_or_none() {
    let db = migrated().await;
    let (pool, sql) = (db.pool(), db.sql().await);
    let token = db.agent("a").await;
    let limits = async || authenticate(&pool, "a", &token).await.expect("answer").expect("may").limits;
    sql.batch_execute("update postbell.role_limits set connections = 7 where role = 'agent'").await.unwrap();
    assert_eq!(limits().await.connections, Some(7));
    sql.batch_execute("alter table agent_registry drop constraint agent_registry_role_check").await.unwrap();
    sql.batch_execute("update agent_registry set role = 'worker'").await.unwrap();
    assert_eq!(limits().await.connections, Some(7));
    sql.batch_execute("insert into postbell.role_limits (role, connections) values ('worker', 3)")
        .await
        .unwrap();
    assert_eq!(limits().await, RoleLimits { connections: Some(3), ..RoleLimits::default() });
    sql.batch_execute("delete from postbell.role_limits").await.unwrap();
    assert_eq!(limits().await, RoleLimits::default());
    for nonsense in ["connections = 0", "sends_per_second = 1", "send_bytes_burst = -1"] {
        let insert = format!(
            "insert into postbell.role_limits values ('x'); update postbell.role_limits set {nonsense}"
        );
        sql.batch_execute(&insert).await.expect_err(nonsense);
    }
}
