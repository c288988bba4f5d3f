//! Producers write while an index is built, however long the build waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use postbell::store::migrate::{SchemaState, migrate, schema_state};
use tokio::time::{sleep, timeout};

use super::{ALL_VALID, a_producer_writes, indexes, mesh, migrating, patient, reading, until_building};
use crate::harness::{TestDb, migrated, number};
use crate::mesh::{PATIENCE, insert};

/// A producer that inserts one message after the other, and the number of its commits.
fn producer(db: &TestDb) -> (tokio::task::JoinHandle<()>, Arc<AtomicI64>) {
    let (db, commits) = (db.clone(), Arc::new(AtomicI64::new(0)));
    let counted = commits.clone();
    let writes = async move {
        let sql = db.sql().await;
        loop {
            insert(&sql, "written-meanwhile", 5, "1").await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    };
    (tokio::spawn(writes), commits)
}

async fn until_more(commits: &AtomicI64, more: i64) {
    let before = commits.load(Ordering::Relaxed);
    let waiting = async {
        while commits.load(Ordering::Relaxed) < before + more {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("the producer stands still");
}

#[tokio::test]
async fn a_producer_writes_while_an_adopted_table_gets_its_indexes() {
    let db = mesh().await;
    let (writes, commits) = producer(&db);
    until_more(&commits, 1).await;
    let reads = reading(&db).await;
    let migrates = migrating(&db);
    until_building(&db, "agent_messages", "waiting for old snapshots").await;
    // The build cannot end while that transaction is open, so these commits are all within it.
    until_more(&commits, 20).await;
    until_building(&db, "agent_messages", "waiting for old snapshots").await;
    reads.batch("commit").await.expect("ends");
    let done = migrates.await.expect("ends");
    assert_eq!(indexes(&db).await, ALL_VALID);
    assert_eq!(
        done.builds[..3],
        [
            "agent_messages_dedupe on agent_messages",
            "agent_messages_expires on agent_messages",
            "agent_metrics_recorded_at on agent_metrics",
        ]
    );
    until_more(&commits, 1).await;
    writes.abort();
    // Each of these messages came before the trigger, or after it.
    db.until(
        "select count(*) = (select count(*) from postbell.deliveries where inbox = 'written-meanwhile')
              from agent_messages where to_agent_id = 'written-meanwhile'",
    )
    .await;
    assert_eq!(schema_state(&db.client().await).await.expect("state"), SchemaState::Current);
    assert!(migrate(&db.target()).await.expect("again").is_empty());
}

/// The one that waits for the other must hold nothing for which the other waits.
#[tokio::test]
async fn two_at_once_do_not_wait_for_each_other() {
    let db = mesh().await;
    let writer = patient(&db).await;
    let measure = "insert into agent_metrics (agent_id, metric_type, metric_name, metric_value) values ('x', 't', 'n', 1)";
    writer.batch(&format!("begin; {measure}")).await.expect("writes");
    let first = migrating(&db);
    until_building(&db, "agent_metrics", "waiting for writers before build").await;
    db.client().await.batch(measure).await.expect("another goes on");
    let second = migrating(&db);
    db.until(
        "select exists (select from pg_stat_activity
                        where datname = current_database() and query like '%advisory_lock(%' and pid <> pg_backend_pid())",
    )
    .await;
    writer.batch("commit").await.expect("ends");
    let (first, second) = (first.await.expect("ends"), second.await.expect("ends"));
    assert!(!first.is_empty() && second.is_empty(), "{second:?}");
    assert_eq!(indexes(&db).await, ALL_VALID);
}

/// An index that somebody dropped or that is invalid is made anew in the same way.
#[tokio::test]
async fn a_lost_index_is_mended_while_a_producer_writes() {
    for lose in [
        "drop index agent_messages_expires",
        "update pg_index set indisvalid = false where indexrelid = 'agent_messages_expires'::regclass",
    ] {
        let db = migrated().await;
        a_producer_writes(&db, "1").await;
        db.client().await.batch(lose).await.expect(lose);
        let reads = reading(&db).await;
        let migrates = migrating(&db);
        until_building(&db, "agent_messages", "waiting for old snapshots").await;
        a_producer_writes(&db, "2").await;
        reads.batch("commit").await.expect("ends");
        let mends = migrates.await.expect("ends").mends;
        assert!(mends.len() == 1 && mends[0].contains("index agent_messages_expires"), "{mends:?}");
        assert_eq!(indexes(&db).await, ALL_VALID, "{lose}");
        let deliveries = "select count(*) from postbell.deliveries where inbox = 'validation-agent'";
        assert_eq!(number(&db.client().await, deliveries).await, 2);
    }
}
