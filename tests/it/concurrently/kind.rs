//! The kind of migration that runs outside of a transaction: each statement by itself, recorded like others.

use postbell::store::migrate::{MIGRATIONS, Migration, apply, version_wanted};
use tokio_postgres::types::ToSql;

use super::{a_producer_writes, reading, until_building};
use crate::harness::{TestDb, migrated, number, text};

static NOTES: Migration = Migration {
    version: 9_000,
    name: "notes",
    sql: include_str!("../fixtures/notes.concurrently.sql"),
    beforehand: "",
    concurrently: true,
};

const INDEXES: &str = "
    select string_agg(c.relname || ' ' || i.indisvalid, ', ' order by c.relname)
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where c.relname in ('agent_messages_noted', 'agent_messages_noted_once', 'agent_messages_older')";
const BOTH: &str = "agent_messages_noted true, agent_messages_noted_once true";
const RECORDED: &str = "
    select count(*) from postbell.migrations
    where version = 9000 and name = 'notes' and sha256 = encode(sha256(convert_to($1, 'UTF8')), 'hex')";

async fn recorded(db: &TestDb) -> i64 {
    let params = [&NOTES.sql as &(dyn ToSql + Sync)];
    db.client().await.query_one(RECORDED, &params).await.expect("recorded").get(0)
}

async fn with_rows() -> TestDb {
    let db = migrated().await;
    a_producer_writes(&db, "1").await;
    db.client()
        .await
        .batch("create index agent_messages_older on agent_messages (priority)")
        .await
        .expect("an index");
    db
}

#[tokio::test]
async fn its_indexes_are_built_while_a_producer_writes_and_it_is_recorded() {
    let db = with_rows().await;
    let reads = reading(&db).await;
    let target = db.target();
    let applies = tokio::spawn(async move { apply(&target, &[&NOTES]).await.expect("applied") });
    until_building(&db, "agent_messages", "waiting for old snapshots").await;
    a_producer_writes(&db, "2").await;
    assert_eq!(recorded(&db).await, 0);
    reads.batch("commit").await.expect("ends");
    let built = applies.await.expect("ends");
    assert_eq!(
        built,
        ["agent_messages_noted on agent_messages", "agent_messages_noted_once on agent_messages"]
    );
    assert_eq!(text(&db.client().await, INDEXES).await, BOTH);
    assert_eq!(recorded(&db).await, 1);
}

/// Ended anywhere in the middle, it is run again.
#[tokio::test]
async fn it_goes_on_where_it_was_ended() {
    let db = with_rows().await;
    let client = db.client().await;
    for ended in [
        "select 1",
        "delete from postbell.migrations where version = 9000",
        "delete from postbell.migrations where version = 9000; drop index agent_messages_noted_once",
        "delete from postbell.migrations where version = 9000;
         update pg_index set indisvalid = false where indexrelid = 'agent_messages_noted'::regclass",
        "delete from postbell.migrations where version = 9000;
         update pg_index set indisvalid = false, indisready = false where indexrelid = 'agent_messages_noted_once'::regclass",
    ] {
        client.batch(ended).await.expect(ended);
        let open = text(&client, INDEXES).await != BOTH;
        let built = apply(&db.target(), &[&NOTES]).await.expect(ended);
        assert_eq!(!built.is_empty(), open, "{ended}: {built:?}");
        assert_eq!((text(&client, INDEXES).await.as_str(), recorded(&db).await), (BOTH, 1), "{ended}");
    }
}

#[tokio::test]
async fn an_index_of_the_users_that_has_such_a_name_is_left_alone_and_told() {
    let db = with_rows().await;
    let client = db.client().await;
    client.batch("create index agent_messages_noted on agent_messages (topic)").await.expect("an index");
    let oid = "select 'agent_messages_noted'::regclass::oid::bigint";
    let before = number(&client, oid).await;
    let said = apply(&db.target(), &[&NOTES]).await.expect_err("refused").to_string();
    for part in [
        "9000_notes was not applied, and nothing of it remains",
        "public.agent_messages_noted is something of your own",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!((number(&client, oid).await, recorded(&db).await), (before, 0));
}

/// A table without rows as well, so that a fresh database has the index.
#[tokio::test]
async fn an_empty_table_gets_its_indexes_too() {
    let db = migrated().await;
    assert_eq!(apply(&db.target(), &[&NOTES]).await.expect("applied").len(), 2);
    assert_eq!(text(&db.client().await, INDEXES).await, BOTH);
    assert_eq!(MIGRATIONS.last().map(|m| m.version), Some(version_wanted()));
}
