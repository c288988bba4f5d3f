//! The bell and the tail: nothing is lost, and nothing is found by the safety round alone.

use std::collections::HashSet;
use std::time::Duration;

use postbell::store::settle::{self, Kind, settle_each, settle_kind};
use postbell_engine::inbox::event::{FailCause, Outcome, Settle};
use postbell_engine::inbox::{Attempt, DeliveryId};
use uuid::Uuid;

use crate::harness::migrated;
use crate::mesh::{Mesh, get, insert, next};

/// Waits until two more canaries have come back: by then, rows that the safety round found before are judged.
pub(crate) async fn judged(mesh: &Mesh) {
    let count = "postbell_bell_roundtrip_seconds_count";
    let before = mesh.metric(count).await;
    mesh.until_metric(count, |now| now >= before + 2.0).await;
}

#[tokio::test]
async fn a_sleeping_broker_is_rung() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    for n in 0..5 {
        mesh.until_armed().await;
        insert(&sql, "a", 5, &n.to_string()).await;
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), n.to_string());
        delivery.ack().await;
    }
    judged(&mesh).await;
    assert_eq!(mesh.metric("postbell_tail_late_total").await, 0.0);
    assert!(mesh.metric("postbell_bell_rings_total").await >= 1.0);
}

/// A connection that the broker has given up may carry its disarming out after another one has armed.
#[tokio::test]
async fn a_flag_that_was_lost_is_written_anew_after_one_late_message() {
    // A router wakes its own tail, so nothing is late.
    let mesh = Mesh::with(&[("POSTBELL_ROUTING", "never")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    for n in 0..2 {
        mesh.until_armed().await;
        sql.batch_execute("select postbell.arm(broker_id, false) from postbell.brokers").await.expect("lost");
        // The first are found in time, while the broker still reads after arming.
        while mesh.metric("postbell_tail_late_total").await <= f64::from(n) {
            insert(&sql, "a", 5, "1").await;
            next(&mut deliveries).await.ack().await;
        }
    }
    mesh.until_armed().await;
}

/// The argument of arming: these transactions read the flag before it was set, so they ring nothing, and commit when
/// it is set.
#[tokio::test]
async fn a_producer_that_commits_late_rings_nothing_and_is_found_all_the_same() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let mut late = Vec::new();
    // A stream of messages keeps the broker awake, and so from arming, while the transactions begin.
    let feeder = mesh.db.sql().await;
    for n in 0..30 {
        insert(&feeder, "a", 5, "\"feed\"").await;
        if n % 10 == 0 {
            let sql = mesh.db.sql().await;
            sql.batch_execute("begin").await.unwrap();
            insert(&sql, "a", 5, "\"late\"").await;
            sql.batch_execute("savepoint s").await.unwrap();
            insert(&sql, "a", 5, "\"gone\"").await;
            sql.batch_execute("rollback to s").await.unwrap();
            late.push(sql);
        }
    }
    for _ in 0..30 {
        next(&mut deliveries).await.ack().await;
    }
    mesh.until_armed().await;
    for sql in late {
        sql.batch_execute("commit").await.unwrap();
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), "\"late\"");
        delivery.ack().await;
    }
    judged(&mesh).await;
    assert_eq!(mesh.metric("postbell_tail_late_total").await, 0.0);
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
}

#[tokio::test]
async fn a_repeatable_read_producer_rings_whatever_its_snapshot_shows() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    // The snapshot is taken before the broker arms.
    sql.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
    mesh.until_armed().await;
    insert(&sql, "a", 5, "1").await;
    sql.batch_execute("commit").await.unwrap();
    next(&mut deliveries).await.ack().await;
    judged(&mesh).await;
    assert_eq!(mesh.metric("postbell_tail_late_total").await, 0.0);
}

/// Armed brokers: one wakes, two wake at the same moment, and one's lease has ended.
#[tokio::test]
async fn producers_ring_while_any_live_broker_sleeps() {
    const RINGS: &str = "select coalesce(last_value > extract(epoch from now()), false) from postbell.bell";
    let db = migrated().await;
    let (one, two) = (db.sql().await, db.sql().await);
    one.batch_execute(
        "insert into postbell.brokers (broker_id, name, address, version, lease_until)
         select ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'b', 'x', 'x', now() + (2 - n) * interval '1 hour'
         from generate_series(0, 3) n",
    )
    .await
    .unwrap();
    let arm = |n: u8, sleeps: bool| {
        format!("select postbell.arm('00000000-0000-0000-0000-00000000000{n}', {sleeps})")
    };
    assert!(!db.ask::<bool>(RINGS).await);
    one.batch_execute(&arm(3, true)).await.unwrap();
    assert!(!db.ask::<bool>(RINGS).await, "its lease ended long ago");
    one.batch_execute(&arm(0, true)).await.unwrap();
    one.batch_execute(&arm(1, true)).await.unwrap();
    one.batch_execute(&arm(0, false)).await.unwrap();
    assert!(db.ask::<bool>(RINGS).await, "the other still sleeps");
    one.batch_execute(&format!("begin; {}", arm(1, false))).await.unwrap();
    let (arm_zero, commit) = (arm(0, true), async {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        one.batch_execute("commit").await
    });
    let (armed, committed) = tokio::join!(two.batch_execute(&arm_zero), commit);
    armed.unwrap();
    committed.unwrap();
    assert!(db.ask::<bool>(RINGS).await, "whoever comes second counts what the first wrote");
    one.batch_execute(&arm(0, false)).await.unwrap();
    assert!(!db.ask::<bool>(RINGS).await);
}

/// The connection that listens is cut and cannot be made again for a while; inserts go on.
#[tokio::test]
async fn without_the_listen_connection_nothing_is_lost_and_readiness_says_so() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 100).await;
    let sql = mesh.db.sql().await;
    mesh.until_ready(true).await;
    let name: String = mesh.db.ask("select current_database()::text").await;
    let admin = crate::mesh::sql_at(&mesh.db.url_of("postgres")).await;
    admin.batch_execute(&format!("alter database {name} with allow_connections false")).await.unwrap();
    let cut = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = '{name}' and query like 'listen %'"
    );
    assert_eq!(admin.query_one(&cut, &[]).await.unwrap().get::<_, i64>(0), 1, "one connection listens");
    let body = mesh.until_ready(false).await;
    assert!(body.contains("\"bell\",\"ok\":false"), "{body}");
    assert_eq!(get(mesh.http, "/health/live").await.0, 200);
    let mut missing: HashSet<String> = (0..50).map(|n| n.to_string()).collect();
    for n in 0..50 {
        insert(&sql, "a", 5, &n.to_string()).await;
    }
    while !missing.is_empty() {
        let delivery = next(&mut deliveries).await;
        assert!(missing.remove(delivery.payload()), "delivered twice: {}", delivery.payload());
        delivery.ack().await;
    }
    admin.batch_execute(&format!("alter database {name} with allow_connections true")).await.unwrap();
    mesh.until_ready(true).await;
    mesh.until_armed().await;
    insert(&sql, "a", 5, "\"heard again\"").await;
    assert_eq!(next(&mut deliveries).await.payload(), "\"heard again\"");
}

/// Every connection of the broker's is cut, again and again, while messages come.
#[tokio::test]
async fn whatever_connection_is_cut_every_message_arrives() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 50).await;
    let sql = mesh.db.sql().await;
    let me: i32 = sql.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    let cut = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity
         where datname = current_database() and pid <> {me} and application_name = 'postbell'"
    );
    let mut missing: HashSet<String> = (0..200).map(|n| n.to_string()).collect();
    for n in 0..200 {
        insert(&sql, "a", 1 + n % 10, &n.to_string()).await;
        if n % 50 == 25 {
            sql.query_one(&cut, &[]).await.unwrap();
        }
    }
    while !missing.is_empty() {
        let delivery = next(&mut deliveries).await;
        // At least once: a message may come again if the fate of its outcome was lost.
        missing.remove(delivery.payload());
        delivery.ack().await;
    }
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
    mesh.db.until("select bool_and(status = 'processed') from agent_messages").await;
}

/// A broker that writes an outcome after it lost the inbox wakes a tail that does not bring the row.
#[tokio::test]
async fn an_outcome_rings_where_another_broker_owns_the_inbox() {
    let mesh = Mesh::start().await;
    mesh.until_armed().await;
    let sql = mesh.db.sql().await;
    // For a process, so that each of the statements can change the delivery.
    let messages =
        "insert into agent_messages (from_agent_id, to_agent_id, to_instance, message_type, payload)
                    select 'sql', 'a', 'gone', 'data', '1' from generate_series(1, 6)";
    sql.batch_execute(messages).await.unwrap();
    // A broker gives a lease of its own back that it does not know, so the owner is one that is not here.
    let owner = Uuid::from_u128(2);
    let owns = "insert into postbell.leases (inbox, broker_id) values ('a', $1)";
    sql.execute(owns, &[&owner]).await.unwrap();
    let ids: Vec<i64> = mesh.db.ask("select array_agg(delivery_id) from postbell.deliveries").await;
    let connection = settle::open(&mesh.db.target()).await.unwrap();
    let fails =
        || Outcome::Fail { cause: FailCause::Nack, delay: Duration::from_hours(1), reason: "no".into() };
    let write = async |n: usize, broker: Uuid| {
        let settle = |outcome| {
            [Settle {
                inbox: "a".into(),
                attempt: Attempt { delivery_id: DeliveryId(ids[n]), failed: 0 },
                outcome,
                answer: None,
            }]
        };
        let settled = match n % 3 {
            0 => settle_kind(&connection, broker, Kind::Retry, &settle(fails())).await,
            1 => settle_kind(&connection, broker, Kind::Relane, &settle(Outcome::Relane { lane: 5 })).await,
            _ => settle_each(&connection, broker, &settle(fails()), true).await,
        };
        assert_eq!(settled.unwrap().became, [settle::Became::Written]);
    };
    judged(&mesh).await;
    mesh.until_armed().await;
    let before = mesh.metric("postbell_bell_rings_total").await;
    for n in 0..3 {
        write(n, owner).await;
    }
    judged(&mesh).await;
    assert_eq!(mesh.metric("postbell_bell_rings_total").await, before, "the owner wakes its own tail");
    for n in 3..6 {
        mesh.until_armed().await;
        let before = mesh.metric("postbell_bell_rings_total").await;
        write(n, Uuid::from_u128(1)).await;
        mesh.until_metric("postbell_bell_rings_total", |n| n > before).await;
    }
}
