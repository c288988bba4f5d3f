//! The server's queue of notifications fills up: a session that listens and sits idle in a transaction pins it, and once
//! it is full no commit with a NOTIFY succeeds.

use postbell::devdb::{Data, DevPostgres, Options};
use postbell::store::migrate::migrate;
use postbell::store::{DatabaseUrl, Target};

use crate::harness::TestDb;
use crate::mesh::{Mesh, insert, next};
use crate::require::skipped;

/// The queue has 8 GB before Postgres 17; from then on it can be made small enough for a test.
const SMALLEST_QUEUE: (&str, &str) = ("max_notify_queue_pages", "64");
const QUEUE_CAN_BE_SMALL_SINCE: u32 = 17;

fn server() -> Option<DevPostgres> {
    let options = |settings| Options {
        data: Data::Temporary,
        bin_dir: std::env::var_os("POSTBELL_TEST_PG").map(Into::into),
        settings,
        environment: Vec::new(),
    };
    let any = DevPostgres::start(options(Vec::new())).expect("starts");
    let major = any.version().split('.').next().and_then(|v| v.parse::<u32>().ok()).expect("a version");
    if major < QUEUE_CAN_BE_SMALL_SINCE {
        skipped(&format!(
            "the notification queue of Postgres {major} cannot be made small; try POSTBELL_TEST_PG of 17"
        ));
        return None;
    }
    let (name, value) = SMALLEST_QUEUE;
    Some(DevPostgres::start(options(vec![(name.to_owned(), value.to_owned())])).expect("starts"))
}

/// Notifies until the queue is fuller than this.
async fn fill(sql: &tokio_postgres::Client, usage: f64) {
    loop {
        let row = sql.query_one("select pg_notification_queue_usage()", &[]).await.expect("usage");
        if row.get::<_, f64>(0) > usage {
            return;
        }
        let notify = "do $$ begin for n in 1..5 loop perform pg_notify('noise', n || repeat('x', 7000)); end loop; end $$";
        if sql.batch_execute(notify).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_queue_that_fills_up_stops_neither_inserts_nor_deliveries() {
    let Some(server) = tokio::task::spawn_blocking(server).await.expect("does not panic") else { return };
    migrate(&Target::new(DatabaseUrl::parse(&server.url()).expect("url"), "public")).await.expect("migrates");
    let mesh = Mesh::on(TestDb::at(server.url()), &[]).await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let (sql, noise, pin) = (mesh.db.sql().await, mesh.db.sql().await, mesh.db.sql().await);
    pin.batch_execute("listen whatever").await.expect("listens");
    pin.batch_execute("begin; select 1").await.expect("pins the queue");

    fill(&noise, 0.55).await;
    mesh.until_metric("postbell_notify_queue_ratio", |usage| usage > 0.5).await;
    mesh.until_metric("postbell_bell_armed", |armed| armed == 0.0).await;
    for n in 0..20 {
        insert(&sql, "a", 5, &n.to_string()).await;
        next(&mut deliveries).await.ack_confirmed().await.expect("acknowledged");
    }
    // The queue is full: nobody can notify any more, yet the lease is renewed and messages flow.
    fill(&noise, 1.0).await;
    noise
        .batch_execute(&format!("notify noise, '{}'", "x".repeat(7000)))
        .await
        .expect_err("the queue is full");
    let lease = "select lease_until from postbell.brokers";
    let before: std::time::SystemTime = mesh.db.ask(lease).await;
    for n in 0..20 {
        insert(&sql, "a", 5, &n.to_string()).await;
        next(&mut deliveries).await.ack_confirmed().await.expect("acknowledged");
    }
    let sleeper = "insert into postbell.brokers (broker_id, name, address, version, lease_until, armed)
                   values (gen_random_uuid(), 'asleep', '', '', now() + interval '1 hour', true);
                   select setval('postbell.bell', extract(epoch from now())::bigint + 3600)";
    sql.batch_execute(sleeper).await.expect("a broker that sleeps");
    insert(&sql, "a", 5, "\"while somebody sleeps\"").await;
    next(&mut deliveries).await.ack().await;
    sql.batch_execute("delete from postbell.brokers where name = 'asleep'").await.expect("gone");
    while mesh.db.ask::<std::time::SystemTime>(lease).await <= before {}
    assert!(mesh.until_ready(true).await.contains("queue of notifications"));

    pin.batch_execute("commit").await.expect("lets go");
    mesh.until_metric("postbell_notify_queue_ratio", |usage| usage < 0.25).await;
    mesh.until_armed().await;
    mesh.until_ready(true).await;
    insert(&sql, "a", 5, "\"rung\"").await;
    next(&mut deliveries).await.ack().await;
    mesh.stop().await;
    tokio::task::spawn_blocking(move || server.stop().expect("stops")).await.expect("does not panic");
}
