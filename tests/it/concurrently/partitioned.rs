//! Measurements may lie in a partitioned table, on which Postgres builds no index concurrently. The parts get theirs one by one.

use postbell::store::migrate::{SchemaState, migrate, schema_state};

use super::{mesh, migrating, reading, until_building};
use crate::harness::{TestDb, number, text};

const PARTS: &str = "
    create schema archive;
    alter table agent_metrics rename to measured;
    create table agent_metrics (like measured including defaults) partition by range (recorded_at);
    create table archive.old partition of agent_metrics for values from (minvalue) to ('2020-01-01');
    create table recent partition of agent_metrics for values from ('2020-01-01') to (maxvalue) partition by hash (agent_id);
    create table recent_0 partition of recent for values with (modulus 2, remainder 0);
    create table recent_1 partition of recent for values with (modulus 2, remainder 1);
    insert into agent_metrics (agent_id, metric_type, metric_name, metric_value, recorded_at)
      select 'agent ' || n % 10, 't', 'n', n, timestamptz '2019-12-31' + n * interval '1 hour' from generate_series(1, 100) n";

const MEASURE: &str =
    "insert into agent_metrics (agent_id, metric_type, metric_name, metric_value) values ('x', 't', 'n', 1)";

async fn partitioned() -> TestDb {
    let db = mesh().await;
    db.client().await.batch(PARTS).await.expect("parts");
    db
}

/// The index of the whole is valid, and has one index of each of the three parts and of the part that has parts.
async fn is_whole(db: &TestDb) {
    let client = db.client().await;
    let tree = "select string_agg(i.indrelid::regclass || ' ' || i.indisvalid, ', ' order by i.indrelid::regclass::text)
                from pg_partition_tree('agent_metrics_recorded_at'::regclass) t join pg_index i on i.indexrelid = t.relid";
    let whole = "agent_metrics true, archive.old true, recent true, recent_0 true, recent_1 true";
    assert_eq!(text(&client, tree).await, whole);
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Current);
    let indexes = "select count(*) from pg_indexes where indexdef like '%(recorded_at)%' and tablename in ('old', 'recent_0', 'recent_1')";
    assert_eq!(number(&client, indexes).await, 3);
}

#[tokio::test]
async fn the_parts_get_their_indexes_while_a_producer_writes() {
    let db = partitioned().await;
    let reads = reading(&db).await;
    let migrates = migrating(&db);
    // The indexes of agent_messages wait as well.
    until_building(&db, "agent_messages", "waiting for old snapshots").await;
    reads.batch("commit").await.expect("ends");
    let reads = reading(&db).await;
    db.until(
        "select exists (select from pg_stat_progress_create_index
                        where datname = current_database() and phase = 'waiting for old snapshots')",
    )
    .await;
    db.client().await.batch(MEASURE).await.expect("written");
    reads.batch("commit").await.expect("ends");
    let builds = migrates.await.expect("ends").builds;
    assert_eq!(
        builds.iter().filter(|built| built.starts_with("agent_metrics_recorded_at_")).count(),
        3,
        "{builds:?}"
    );
    is_whole(&db).await;
}

#[tokio::test]
async fn an_index_of_a_part_that_is_there_or_was_left_invalid_ends_as_one() {
    let db = partitioned().await;
    let client = db.client().await;
    client
        .batch(
            "create index mine on archive.old (recorded_at);
             do $$ begin execute format('create index agent_metrics_recorded_at_%s on recent_0 (recorded_at)', 'recent_0'::regclass::oid); end $$;
             update pg_index set indisvalid = false where indrelid = 'recent_0'::regclass",
        )
        .await
        .expect("indexes");
    let builds = migrate(&db.target()).await.expect("migrated").builds;
    assert_eq!(
        builds.iter().filter(|built| built.starts_with("agent_metrics_recorded_at_")).count(),
        2,
        "{builds:?}"
    );
    is_whole(&db).await;
}
