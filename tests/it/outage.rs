//! The server restarts under the broker, or goes without a word.

use std::collections::HashSet;

use faults::proxy::Proxy;
use faults::schedule::{End, Net};
use postbell::devdb::{Data, DevPostgres, Options};
use postbell::store::migrate::migrate;
use postbell::store::{DatabaseUrl, Target};
use postbell_client::Outgoing;
use postbell_client::message::MessageType;

use tokio::time::timeout;

use crate::harness::{TestDb, migrated};
use crate::mesh::{Mesh, PATIENCE, insert, next};

#[tokio::test]
async fn a_crash_of_the_server_loses_no_message_and_no_ack() {
    let bin_dir = std::env::var_os("POSTBELL_TEST_PG").map(Into::into);
    let options = Options { data: Data::Temporary, bin_dir, settings: Vec::new(), environment: Vec::new() };
    let mut server = DevPostgres::start(options).unwrap();
    let url = server.url();
    migrate(&Target::new(DatabaseUrl::parse(&url).unwrap(), "public")).await.unwrap();
    let mesh = Mesh::on(TestDb::at(url), &[]).await;
    let (_client, mut deliveries) = mesh.connect("a", 20).await;
    let sql = mesh.db.sql().await;
    let mut missing: HashSet<String> = (0..100).map(|n| n.to_string()).collect();
    for n in 0..50 {
        insert(&sql, "a", 5, &n.to_string()).await;
    }
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(next(&mut deliveries).await);
    }
    // An immediate stop is a crash: the server replays its log.
    let mut server = tokio::task::spawn_blocking(move || {
        server.restart(true).unwrap();
        server
    })
    .await
    .unwrap();
    // The acks may come before the broker has noticed that the server was away.
    for delivery in held {
        missing.remove(delivery.payload());
        delivery.ack().await;
    }
    let sql = mesh.db.sql().await;
    for n in 50..100 {
        insert(&sql, "a", 5, &n.to_string()).await;
    }
    while !missing.is_empty() {
        let delivery = next(&mut deliveries).await;
        missing.remove(delivery.payload());
        delivery.ack().await;
    }
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
    mesh.until_ready(true).await;
    mesh.stop().await;
    server = tokio::task::spawn_blocking(move || {
        server.restart(false).unwrap();
        server
    })
    .await
    .unwrap();
    tokio::task::spawn_blocking(move || server.stop().unwrap()).await.unwrap();
}

/// A database of the test's own; the same through a proxy; and the proxy.
async fn through_a_proxy() -> (TestDb, TestDb, Proxy) {
    let db = migrated().await;
    let proxy = Proxy::in_turn(Vec::new()).await.unwrap();
    let through = db.through(&proxy);
    (db, through, proxy)
}

#[tokio::test]
async fn a_lease_that_lapsed_in_silence_is_asked_for_again() {
    let (db, through, proxy) = through_a_proxy().await;
    let mesh = Mesh::on(through, &[]).await;
    let (_client, mut deliveries) = mesh.connect("a", 20).await;
    let sql = db.sql().await;
    insert(&sql, "a", 5, "1").await;
    next(&mut deliveries).await.ack_confirmed().await.unwrap();
    proxy.inflict(Net::BlackHole);
    // By then the broker has also given up the renewal that went into the hole.
    db.until("select lease_until < now() - interval '1.5 s' from postbell.brokers").await;
    // Another broker does this if its agent came and went meanwhile.
    sql.execute("delete from postbell.leases", &[]).await.unwrap();
    // The renewal from the hole arrives now, and nobody hears that the lease had lapsed before.
    proxy.heal();
    insert(&sql, "a", 5, "2").await;
    next(&mut deliveries).await.ack_confirmed().await.unwrap();
    mesh.stop().await;
}

#[tokio::test]
async fn connections_to_a_server_that_went_without_a_word_are_given_up() {
    let (db, through, proxy) = through_a_proxy().await;
    let mesh = Mesh::on(through, &[]).await;
    let (client, mut deliveries) = mesh.connect("a", 20).await;
    let sql = db.sql().await;
    // Every kind of connection is open: tail, settler, and one of the pool.
    insert(&sql, "a", 5, "1").await;
    next(&mut deliveries).await.ack_confirmed().await.unwrap();
    let message = || Outgoing::new("a", MessageType::Data, &2).unwrap();
    client.send(message()).await.unwrap();
    next(&mut deliveries).await.ack_confirmed().await.unwrap();
    // The server is told, the broker is not; its new connections work.
    proxy.inflict(Net::HalfOpen { told: End::Server });
    insert(&sql, "a", 5, "3").await;
    let settled = async { next(&mut deliveries).await.ack_confirmed().await.unwrap() };
    timeout(PATIENCE, settled).await.expect("delivered and settled on new connections");
    // A send may meet each dead connection of the pool, and is told so.
    let sent = async { while client.send(message()).await.is_err() {} };
    timeout(PATIENCE, sent).await.expect("sent on a new connection");
    mesh.stop().await;
}
