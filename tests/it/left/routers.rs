//! Routers that die, are taken for dead, or leave, and those that take over.

use postbell_engine::router::LEFT_FOR;

use super::{ALWAYS, expect, leaving, many, renew, run, until_leaving, until_over};
use crate::harness::{TestDb, migrated};
use crate::mesh::Mesh;

/// Leaves messages to a router that does not live any more, and has not routed them.
const DEAD: &str = "update postbell.router set broker_id = '00000000-0000-4000-8000-00000000dead', epoch = epoch + 1,
                           routed = pg_current_snapshot();
                    select setval('postbell.routed', (extract(epoch from clock_timestamp()) * 1000)::bigint + 2000)";

/// A database in which messages 1 to `to` were left to a router that died.
async fn orphaned(to: u32) -> TestDb {
    let db = migrated().await;
    let sql = db.sql().await;
    run(&sql, DEAD).await;
    for n in 1..=to {
        run(&sql, &many(n, n)).await;
    }
    assert_eq!(db.ask::<i64>("select count(*) from postbell.deliveries").await, 0);
    db
}

#[tokio::test]
async fn what_a_dead_router_was_left_is_routed_when_a_broker_starts() {
    let db = orphaned(3).await;
    let late = db.sql().await;
    run(&late, &format!("begin; {}", many(5, 5))).await;
    run(&db.sql().await, &many(4, 4)).await;
    let report = postbell::store::doctor::examine(&db.target()).await;
    let told = report.iter().any(|c| {
        c.sentence.starts_with("4 messages, the first of 2") && c.sentence.contains("start a broker")
    });
    assert!(told, "{report:?}");
    // Whatever this broker would have left to itself.
    let mesh = Mesh::on(db, &[("POSTBELL_ROUTING", "never")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    expect(&mut deliveries, 1..=4).await;
    run(&late, "commit").await;
    expect(&mut deliveries, 5..=5).await;
    until_over(&mesh).await;
    mesh.db.until("select broker_id is null from postbell.router").await;
}

#[tokio::test]
async fn a_broker_that_runs_finds_that_the_router_died() {
    let mesh = Mesh::with(&[("POSTBELL_ROUTING", "never")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    run(&sql, DEAD).await;
    run(&sql, &many(1, 3)).await;
    expect(&mut deliveries, 1..=3).await;
    until_over(&mesh).await;
}

#[tokio::test]
async fn one_that_was_taken_for_dead_routes_nothing_any_more() {
    let mesh = leaving().await;
    let sql = mesh.db.sql().await;
    // As a router that was frozen past its lease does: it has its old epoch, and does not know of the new one.
    let frozen = "select is_router, seen, made from postbell.route(
                    (select broker_id from postbell.router), (select epoch - 1 from postbell.router), '3'::xid8, '{}', null)";
    run(&sql, "alter table agent_messages disable trigger postbell_route").await;
    let row = sql.query_one(frozen, &[]).await.expect("a row");
    assert_eq!((row.get::<_, bool>(0), row.get::<_, i64>(2)), (false, 0));
    // Nor does it write that messages may be left.
    run(
        &sql,
        "begin; select setval('postbell.routed', 0);
               select postbell.left_until(broker_id, epoch - 1, 5000) from postbell.router; commit",
    )
    .await;
    let others: bool = mesh
        .db
        .ask("select not given from postbell.give_routing((select broker_id from postbell.router), 0, true) g (given)")
        .await;
    assert!(others);
}

#[tokio::test]
async fn of_two_brokers_one_is_the_router_and_the_other_takes_over() {
    let one = leaving().await;
    let two = Mesh::on(one.db.clone(), &[ALWAYS]).await;
    let (_client, mut deliveries) = two.connect("a", 10).await;
    let sql = one.db.sql().await;
    run(&sql, &many(1, 5)).await;
    expect(&mut deliveries, 1..=5).await;
    assert_eq!((one.metric("postbell_router").await, two.metric("postbell_router").await), (1.0, 0.0));
    // A transaction that commits when the first is long gone.
    let late = one.db.sql().await;
    run(&late, &format!("begin; {}", many(7, 7))).await;
    let (_, stopped) = one.stop().await;
    assert!(!stopped.broken);
    two.until_metric("postbell_router", |n| n == 1.0).await;
    run(&sql, &many(6, 6)).await;
    expect(&mut deliveries, 6..=6).await;
    run(&late, "commit").await;
    expect(&mut deliveries, 7..=7).await;
    until_over(&two).await;
}

#[tokio::test]
async fn a_broker_that_stops_leaves_nothing_unrouted() {
    let mesh = leaving().await;
    mesh.db.agent("a").await;
    let sql = mesh.db.sql().await;
    let writer = mesh.db.sql().await;
    let (written, mut writing) = tokio::sync::mpsc::unbounded_channel();
    let writes = tokio::spawn(async move {
        let mut n = 0;
        while !writer.is_closed() {
            n += 1;
            writer.batch_execute(&many(n, n)).await.expect("a row");
            if written.send(n).is_err() {
                break;
            }
        }
    });
    for _ in 0..20 {
        writing.recv().await.expect("writes");
    }
    let (db, _) = mesh.stop().await;
    drop(writing);
    writes.await.expect("ends");
    assert_eq!(db.ask::<i64>("select coalesce(pg_sequence_last_value('postbell.routed'), 0)").await, 0);
    let missing = "select count(*) from agent_messages m
                   where not exists (select from postbell.deliveries d where d.message_id = m.message_id)";
    assert_eq!(db.ask::<i64>(missing).await, 0);
    // Where a transaction anywhere on the server may still commit what it left, the next broker takes over at once.
    assert!(
        db.ask::<bool>(
            "select coalesce(broker_id = '00000000-0000-0000-0000-000000000000', true) from postbell.router"
        )
        .await
    );
    assert!(
        sql.query_one("select count(*) filter (where left_txid is not null) > 0 from agent_messages", &[])
            .await
            .expect("counts")
            .get::<_, bool>(0)
    );
}

#[tokio::test]
async fn a_cursor_of_another_cluster_is_no_place_to_begin_at() {
    let db = orphaned(2).await;
    // As after a restore into a younger cluster: its transactions are far behind those of the dump.
    run(
        &db.sql().await,
        "update agent_messages set left_txid = '900000000000'; update postbell.router set routed = '800000000000:800000000000:'",
    )
    .await;
    let mesh = Mesh::on(db, &[ALWAYS]).await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    expect(&mut deliveries, 1..=2).await;
    until_leaving(&mesh).await;
    run(&mesh.db.sql().await, &many(3, 3)).await;
    expect(&mut deliveries, 3..=3).await;
    until_over(&mesh).await;
}

#[tokio::test]
async fn a_router_that_loses_its_connection_goes_on() {
    let mesh = leaving().await;
    let (_client, mut deliveries) = mesh.connect("a", 100).await;
    let sql = mesh.db.sql().await;
    for n in 0..3_u32 {
        run(&sql, &many(10 * n + 1, 10 * n + 9)).await;
        run(&sql, "select pg_terminate_backend(pid) from pg_stat_activity
                   where datname = current_database() and query like '%postbell.route%' and pid <> pg_backend_pid()").await;
        run(&sql, &many(10 * n + 10, 10 * n + 10)).await;
        expect(&mut deliveries, 10 * n + 1..=10 * n + 10).await;
    }
    until_over(&mesh).await;
    // For a while it is not trusted; what it would have been left is routed by the trigger.
    assert!(LEFT_FOR < std::time::Duration::from_secs(10));
    assert!(!renew(&mesh).await.is_empty());
}
