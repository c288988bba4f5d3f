//! Databases that are copies of another database's schema, whole or in part.

use std::process::Stdio;

use postbell::store::migrate::{SchemaState, migrate, schema_state};
use tokio::process::Command;

use super::{a_message_lives, run, told};
use crate::harness::{EXISTING_MESH, TestDb, command, fresh, lacks, migrated, number, roles};

/// The programs of a copy.
const COPIES: &[&str] = &["pg_dump", "psql"];

/// `pg_dump OPTIONS from | psql to`.
async fn copy(from: &TestDb, to: &TestDb, options: &[&str]) {
    let dump = Command::new("pg_dump")
        .args(options)
        .arg(from.url())
        .stderr(Stdio::null())
        .output()
        .await
        .expect("pg_dump");
    assert!(dump.status.success(), "pg_dump");
    let mut psql = Command::new("psql")
        .args(["-q", "-v", "ON_ERROR_STOP=0", &to.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("psql");
    let mut stdin = psql.stdin.take().expect("a pipe");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, &dump.stdout).await.expect("writes");
    drop(stdin);
    psql.wait().await.expect("ends");
}

async fn with_messages() -> TestDb {
    let db = migrated().await;
    run(
        &db.client().await,
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                             values ('s', 'lives', 'data', '0'), ('s', 'other', 'data', '0')",
    )
    .await;
    db
}

#[tokio::test]
async fn a_schema_without_its_rows_is_put_in_order() {
    if lacks(COPIES) {
        return;
    }
    let (from, to) = (with_messages().await, fresh().await);
    copy(&from, &to, &["--schema-only", "--no-owner"]).await;
    let client = to.client().await;
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Copied);
    assert!(told(&to).await.contains("without its record of migrations"));
    let ended = command(&to, &["migrate"]).await;
    assert_eq!(ended.status, 0, "{}{}", ended.stdout, ended.stderr);
    assert_eq!(told(&to).await, "");
    assert!(
        number(&client, "select count(*) from postbell.role_limits").await > 0,
        "what came with the tables is there"
    );
    a_message_lives(&to, "a copied schema").await;
}

#[tokio::test]
async fn messages_that_were_put_into_a_copied_schema_are_delivered() {
    if lacks(COPIES) {
        return;
    }
    let (from, to) = (with_messages().await, fresh().await);
    copy(&from, &to, &["--schema-only", "--no-owner"]).await;
    let client = to.client().await;
    run(&client, "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ('s', 'seeded', 'data', '0')").await;
    migrate(&to.target()).await.expect("migrate");
    assert_eq!(number(&client, "select count(*) from postbell.deliveries where inbox = 'seeded'").await, 1);
    a_message_lives(&to, "a seeded branch").await;
}

#[tokio::test]
async fn a_dump_of_the_users_schema_alone_is_adopted() {
    if lacks(COPIES) {
        return;
    }
    let (from, to) = (fresh().await, fresh().await);
    roles(&from.client().await, EXISTING_MESH).await;
    migrate(&from.target()).await.expect("migrate");
    run(&to.client().await, "drop schema public cascade").await;
    copy(&from, &to, &["--schema=public", "--no-owner"]).await;
    migrate(&to.target()).await.expect("migrate");
    assert_eq!(told(&to).await, "");
    let waiting = "select count(*) from postbell.deliveries";
    let all = number(&from.client().await, waiting).await;
    assert_eq!(number(&to.client().await, waiting).await, all);
    a_message_lives(&to, "a dump of public").await;
}

#[tokio::test]
async fn a_whole_dump_needs_nothing() {
    if lacks(COPIES) {
        return;
    }
    let (from, to) = (with_messages().await, fresh().await);
    copy(&from, &to, &["--no-owner"]).await;
    assert_eq!(told(&to).await, "");
    assert!(migrate(&to.target()).await.expect("migrate").is_empty());
    a_message_lives(&to, "a whole dump").await;
}

#[tokio::test]
async fn a_schema_that_does_not_exist_any_more_is_told_how_to_make_it() {
    let db = migrated().await;
    run(&db.client().await, "drop schema public cascade").await;
    let refused = migrate(&db.target()).await.expect_err("no schema").to_string();
    assert!(refused.contains("`create schema public`"), "{refused}");
}

#[tokio::test]
async fn a_record_that_was_lost_is_made_anew_and_nothing_that_waits_is() {
    let db = with_messages().await;
    let client = db.client().await;
    run(&client, "delete from postbell.migrations").await;
    let before = number(&client, "select sum(delivery_id)::bigint from postbell.deliveries").await;
    migrate(&db.target()).await.expect("migrate");
    assert_eq!(number(&client, "select sum(delivery_id)::bigint from postbell.deliveries").await, before);
    a_message_lives(&db, "a lost record").await;
}
