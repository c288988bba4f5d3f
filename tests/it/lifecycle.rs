//! Starting, stopping, dying, and coming back; and a backlog far beyond the lanes.

use std::collections::HashSet;
use std::process::Command;

use postbell::broker::Stopped;
use postbell_client::Builder;

use crate::harness::{fresh, migrated};
use crate::mesh::{Mesh, insert, next};
use crate::process::{Process, kept_port};

#[tokio::test]
async fn a_stop_waits_for_what_is_in_flight() {
    let mesh = Mesh::start().await;
    let (client, mut deliveries) = mesh.connect("a", 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    let delivery = next(&mut deliveries).await;
    let acking = tokio::spawn(async move {
        let mut state = client.state();
        delivery.ack_confirmed().await.expect("the ack counts while the broker drains");
        let _ = state.wait_for(|s| !matches!(s, postbell_client::State::Connected { .. })).await;
    });
    let (db, stopped) = mesh.stop().await;
    acking.await.unwrap();
    assert_eq!(stopped, Stopped { given_back: 0, unsettled: 0, broken: false });
    assert_eq!(db.ask::<String>("select status from agent_messages").await, "processed");
    let left = "select count(*) from postbell.brokers union all select count(*) from postbell.leases";
    assert_eq!(db.ask::<i64>(&format!("select sum(count)::bigint from ({left}) t")).await, 0);
    assert_eq!(db.ask::<String>("select status from agent_registry").await, "offline");
}

#[tokio::test]
async fn nothing_is_pushed_to_a_session_that_was_asked_to_leave() {
    let mesh = Mesh::with(&[("POSTBELL_DRAIN_SECONDS", "60")]).await;
    let token = mesh.db.agent("a").await;
    let mut raw = mesh.raw_with("a", &token, 5).await;
    let sql = mesh.db.sql().await;
    insert(&sql, "a", 5, "1").await;
    raw.expect("msg").await;
    let stopping = tokio::spawn(mesh.stop());
    raw.expect("drain").await;
    insert(&sql, "a", 5, "2").await;
    sql.batch_execute("select pg_notify('postbell', '')").await.expect("rings");
    raw.say(r#"{"op":"ack","tag":1,"ref":"r"}"#).await;
    raw.expect("acked").await;
    raw.expect_error("stopping", true).await;
    let (db, stopped) = stopping.await.unwrap();
    assert_eq!(stopped, Stopped { given_back: 0, unsettled: 0, broken: false });
    assert_eq!(db.ask::<i64>("select count(*) from postbell.deliveries").await, 1);
}

#[tokio::test]
async fn what_is_in_flight_at_the_deadline_is_given_back_uncounted() {
    let mesh = Mesh::with(&[("POSTBELL_DRAIN_SECONDS", "1")]).await;
    let token = mesh.db.agent("a").await;
    let mut raw = mesh.raw_with("a", &token, 5).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    raw.expect("msg").await;
    let (db, stopped) = mesh.stop().await;
    assert_eq!(stopped, Stopped { given_back: 1, unsettled: 0, broken: false });
    raw.expect("drain").await;
    raw.expect_error("stopping", true).await;
    assert_eq!(db.ask::<i16>("select attempt from postbell.deliveries").await, 0);
    let mesh = Mesh::on(db, &[]).await;
    let mut raw = mesh.raw_with("a", &token, 5).await;
    assert_eq!(raw.expect("msg").await["attempt"], 1);
}

#[tokio::test]
async fn a_killed_brokers_messages_are_delivered_by_the_next() {
    let db = migrated().await;
    let token = db.agent("a").await;
    let port = kept_port();
    let address = port.address();
    let broker = Process::start(&db, &port);
    let builder = Builder::new(&format!("tcp://{address}"), "a", &token).window(20);
    let (_client, mut deliveries) =
        builder.reconnect_first(std::time::Duration::from_millis(20)).connect().await.unwrap();
    let sql = db.sql().await;
    let mut missing: HashSet<String> = (0..300).map(|n| n.to_string()).collect();
    for n in 0..150 {
        insert(&sql, "a", 1 + n % 10, &n.to_string()).await;
    }
    let mut held = Vec::new();
    while missing.len() > 250 {
        let delivery = next(&mut deliveries).await;
        missing.remove(delivery.payload());
        // Every fifth is in the agent's hands when the broker dies.
        if missing.len().is_multiple_of(5) { held.push(delivery) } else { delivery.ack().await }
    }
    // Dropping the broker kills it by SIGKILL, in the middle of its work.
    drop(broker);
    for n in 150..300 {
        insert(&sql, "a", 1 + n % 10, &n.to_string()).await;
    }
    drop(held);
    let _broker = Process::start(&db, &port);
    while !missing.is_empty() {
        let delivery = next(&mut deliveries).await;
        missing.remove(delivery.payload());
        delivery.ack().await;
    }
    // The remaining messages come again and are settled; nothing is left over.
    let settling = async {
        while let Some(delivery) = deliveries.next().await {
            delivery.ack().await
        }
    };
    tokio::select! {
        () = settling => panic!("the client ended"),
        () = db.until("select count(*) = 0 from postbell.deliveries") => {}
    }
    assert!(db.ask::<bool>("select bool_and(status = 'processed') from agent_messages").await);
}

/// 200,000 messages in one inbox: the lanes hold a bounded part, and the order is right over the whole inbox.
#[tokio::test]
async fn a_backlog_far_beyond_the_lanes_costs_no_memory_and_keeps_its_order() {
    const MESSAGES: u64 = 200_000;
    let db = migrated().await;
    let token = db.agent("a").await;
    db.sql()
        .await
        .batch_execute(&format!(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority)
             select 'x', 'a', 'data', jsonb_build_object('n', n, 'text', repeat('x', 200)), 1 + n % 4
             from generate_series(1, {MESSAGES}) n order by n"
        ))
        .await
        .unwrap();
    let port = kept_port();
    let address = port.address();
    let broker = Process::start(&db, &port);
    // More rows are committed while the inbox drains, and must not disturb the order.
    let (_client, mut deliveries) =
        Builder::new(&format!("tcp://{address}"), "a", &token).window(1_000).connect().await.unwrap();
    #[derive(serde::Deserialize)]
    struct Payload {
        n: u64,
    }
    let mut last = [0; 11];
    let mut lowest_seen = 1;
    for count in 0..MESSAGES {
        let delivery = next(&mut deliveries).await;
        let (n, priority) = (delivery.payload_as::<Payload>().unwrap().n, delivery.priority());
        assert!(n > last[usize::from(priority)], "message {n} came after {}", last[usize::from(priority)]);
        last[usize::from(priority)] = n;
        // But for one push in sixteen, a less urgent lane begins only when the more urgent one is empty.
        if count % 16 != 15 {
            assert!(priority >= lowest_seen, "priority {priority} after {lowest_seen} at push {count}");
            lowest_seen = priority;
        }
        delivery.ack().await;
    }
    #[cfg(target_os = "linux")]
    {
        let peak = broker.peak_bytes();
        println!("the broker's peak memory with {MESSAGES} waiting messages: {} MB", peak / 1_000_000);
        assert!(peak < 200_000_000, "{peak} bytes for {MESSAGES} messages");
    }
    drop(broker);
}

#[tokio::test]
async fn serve_refuses_a_database_that_is_not_migrated_and_names_the_command() {
    let db = fresh().await;
    let serve = Command::new(env!("CARGO_BIN_EXE_postbell"))
        .args(["serve", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"])
        .env("DATABASE_URL", db.url())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&serve.stderr).into_owned();
    assert!(!serve.status.success() && said.contains("postbell migrate"), "{said}");
    let serve = Command::new(env!("CARGO_BIN_EXE_postbell"))
        .args(["serve", "--pool-size", "1"])
        .env("DATABASE_URL", db.url())
        .output()
        .unwrap();
    assert_eq!(serve.status.code(), Some(64));
}
