//! The server restarts under the broker.

use std::collections::HashSet;

use postbell::devdb::{Data, DevPostgres, Options};
use postbell::postgres::migrate::migrate;
use postbell::postgres::{DatabaseUrl, Target};

use crate::harness::TestDb;
use crate::mesh::{Mesh, insert, next};

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
    // Acknowledged while the broker may not have noticed that the server was away.
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
