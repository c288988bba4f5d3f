//! A build that is ended in the middle leaves an invalid index, or nothing, and the next run goes on.

use std::process::Stdio;

use postbell::store::migrate::{Rehearsal, SchemaState, migrate, migrate_with, schema_state};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

use super::{ALL_VALID, a_producer_writes, indexes, mesh, migrating, reading, until_building};
use crate::harness::{number, texts};
use crate::mesh::PATIENCE;

const BUILDING: &str =
    "select count(*) = 0 from pg_stat_progress_create_index where datname = current_database()";

/// The process says for whom it waits, and is killed.
#[tokio::test]
async fn a_process_that_is_killed_is_followed_by_the_next() {
    let db = mesh().await;
    let reads = reading(&db).await;
    let pid = number(&reads, "select pg_backend_pid()::bigint").await;
    let mut process = tokio::process::Command::new(env!("CARGO_BIN_EXE_postbell"))
        .arg("migrate")
        .env_clear()
        .env("DATABASE_URL", db.url())
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("starts");
    let mut lines = BufReader::new(process.stderr.take().expect("piped")).lines();
    let told = async {
        loop {
            let line = lines.next_line().await.expect("reads").expect("it goes on");
            if line.contains("an index waits until") {
                return line;
            }
        }
    };
    let line = timeout(PATIENCE, told).await.expect("told");
    assert!(line.contains(&format!("process {pid} (")) && line.contains("idle in transaction"), "{line}");
    process.kill().await.expect("killed");
    let client = db.client().await;
    if number(&client, "select current_setting('server_version_num')::bigint").await < 140_000 {
        let end = "select pg_terminate_backend(pid) from pg_stat_progress_create_index where datname = current_database()";
        client.batch(end).await.expect("an older server does not notice");
    }
    db.until(BUILDING).await;
    assert_eq!(indexes(&db).await, "agent_messages_dedupe false");
    a_producer_writes(&db, "1").await;

    // The invalid index is dropped and built anew, while that transaction is still open.
    let next = migrating(&db);
    until_building(&db, "agent_messages", "waiting for old snapshots").await;
    a_producer_writes(&db, "2").await;
    reads.batch("commit").await.expect("ends");
    let builds = next.await.expect("ends").builds;
    assert!(builds.contains(&"agent_messages_dedupe on agent_messages".to_owned()), "{builds:?}");
    assert_eq!(indexes(&db).await, ALL_VALID);
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Current);
}

/// Killed after the indexes and before the migration: both are found.
#[tokio::test]
async fn what_was_built_is_not_built_again() {
    let db = mesh().await;
    let reads = reading(&db).await;
    let target = db.target();
    let first = tokio::spawn(async move { migrate(&target).await });
    until_building(&db, "agent_messages", "waiting for old snapshots").await;
    let end = "select pg_terminate_backend(pid) from pg_stat_progress_create_index where datname = current_database()";
    db.client().await.batch(end).await.expect("ended");
    let error = first.await.expect("joins").expect_err("its session was ended");
    assert!(error.is_retryable(), "{error}");
    let said = error.to_string();
    for part in [
        "migration 0002_agent_tables was not applied, and nothing of it remains but",
        "index agent_messages_dedupe could not be built on agent_messages",
        "Migration 0001_broker_tables was applied before it and stays",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    reads.batch("commit").await.expect("ends");
    let client = db.client().await;
    client
        .batch(
            "drop index agent_messages_dedupe;
             create unique index agent_messages_dedupe on agent_messages (from_agent_id, dedupe_key) where dedupe_key is not null",
        )
        .await
        .expect("as if it had been built");
    let oid = "select 'agent_messages_dedupe'::regclass::oid::bigint";
    let before = number(&client, oid).await;
    let done = migrate(&db.target()).await.expect("migrated");
    assert_eq!(
        done.builds[..2],
        ["agent_messages_expires on agent_messages", "agent_metrics_recorded_at on agent_metrics"]
    );
    assert_eq!(number(&client, oid).await, before);
    assert_eq!(indexes(&db).await, ALL_VALID);
}

/// An invalid unique index would refuse what producers write.
#[tokio::test]
async fn a_build_that_fails_leaves_nothing_that_refuses_a_row() {
    let db = mesh().await;
    let client = db.client().await;
    let twice =
        "alter table agent_messages add dedupe_key text; update agent_messages set dedupe_key = 'secret'";
    client.batch(twice).await.expect("duplicates");
    let said = migrate_with(&db.target(), Rehearsal::Without).await.expect_err("duplicates").to_string();
    assert!(said.contains("index agent_messages_dedupe could not be built on agent_messages"), "{said}");
    assert!(!said.contains("secret") && said.contains("it goes on with 0002_agent_tables"), "{said}");
    assert_eq!(
        texts(&client, "select relname::text from pg_class where relname = 'agent_messages_dedupe'").await,
        [""; 0]
    );
    client.batch("update agent_messages set dedupe_key = null").await.expect("mended");
    migrate(&db.target()).await.expect("migrated");
    assert_eq!(indexes(&db).await, ALL_VALID);
}
