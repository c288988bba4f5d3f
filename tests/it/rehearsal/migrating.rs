//! The dry run against the migration, and the state after a migration that fails all the same.

use std::time::{Duration, Instant};

use postbell::store::migrate::{Plan, Rehearsal, migrate, migrate_with, plan};

use super::{mesh_with, warned};
use crate::harness::{EXISTING_MESH, TestDb, command, fresh, number, roles, texts};

/// One function counts for both, including messages to all, to topics, environments and groups, and expired ones.
#[tokio::test]
async fn the_dry_run_counts_what_the_migration_makes() {
    let change = "alter table agent_messages add topic text, add to_environment text, add to_group text,
                    add expires_at timestamptz, add deliver_at timestamptz;
                  update agent_messages set topic = 'general' where to_agent_id is null and priority = 1;
                  update agent_messages set to_environment = 'pc' where to_agent_id is null;
                  update agent_messages set to_group = 'g', to_agent_id = null where priority = 3;
                  update agent_messages set expires_at = now() - interval '1 hour' where priority = 4;
                  update agent_messages set deliver_at = now() + interval '1 hour' where priority = 5;";
    for change in [
        "",
        change,
        "delete from agent_registry",
        "update agent_messages set status = 'pending', to_agent_id = null",
    ] {
        let (db, client) = mesh_with(change).await;
        let planned = plan(&client).await.expect("planned").deliveries.expect("counted");
        let done: Plan = migrate(&db.target()).await.expect("migrated");
        assert_eq!(done.deliveries, Some(planned), "{change}");
        let there = number(&client, "select count(*) from postbell.deliveries").await;
        assert_eq!(u64::try_from(there).ok(), Some(planned), "{change}");
    }
    // So many messages that they are only counted.
    let many = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                select 'x', case when i % 100 > 0 then 'validation-agent' end, 'data', '{}' from generate_series(1, 12000) i";
    let (db, client) = mesh_with(many).await;
    let planned = plan(&client).await.expect("planned").deliveries;
    assert_eq!(migrate(&db.target()).await.expect("migrated").deliveries, planned);
    let said = command(&mesh_with("").await.0, &["migrate", "--dry-run"]).await;
    assert!(said.stdout.contains("would make ") && said.stdout.contains("rolled back"), "{}", said.stdout);
}

/// A column of the mesh's own that the broker takes for an address.
#[tokio::test]
async fn what_waits_for_nobody_is_counted_by_the_column_that_says_so() {
    warned(
        "alter table agent_messages add topic text;
         update agent_messages set topic = 'general', status = 'pending' where to_agent_id is null",
        &["public.agent_messages: 20 messages that wait have something in column topic", "nobody gets them"],
    )
    .await;
}

#[tokio::test]
async fn a_column_of_a_later_migration_is_asked_for_in_tables_that_were_adopted_long_ago() {
    let db = fresh().await;
    roles(&db.client().await, EXISTING_MESH).await;
    let before = columns(&db).await;
    migrate(&db.target()).await.expect("migrate");
    let added: Vec<String> =
        columns(&db).await.into_iter().filter(|column| !before.contains(column)).collect();
    assert!(added.len() >= 20, "{added:?}");
    // adoption_faults.sql must list every column that a migration adds: with a type that no mesh has, the column is
    // refused.
    for column in added {
        let (table, name) = column.split_once('.').expect("a table");
        let (_db, client) = mesh_with(&format!("alter table {table} add {name} point")).await;
        let said = plan(&client).await.expect_err(&column).to_string();
        assert!(said.contains(&format!("{name} is point, not ")), "{column} is not listed: {said}");
    }
}

async fn columns(db: &TestDb) -> Vec<String> {
    texts(
        &db.client().await,
        "select table_name || '.' || column_name from information_schema.columns where table_schema = 'public'",
    )
    .await
}

#[tokio::test]
async fn a_failure_in_the_middle_says_where_it_stands_and_migrate_goes_on() {
    let (db, client) = mesh_with("").await;
    client.batch("begin; lock table agent_alerts in share mode").await.expect("lock");
    let failed = migrate_with(&db.target(), Rehearsal::Without).await.expect_err("locked");
    let said = failed.to_string();
    for part in [
        "migration 0013_alerts was not applied, and nothing of it remains",
        "Migrations 0001_broker_tables to 0012_presence were applied before it and stay",
        "it goes on with 0013_alerts",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(failed.is_retryable());
    client.batch("commit").await.expect("commit");
    let done = migrate(&db.target()).await.expect("goes on");
    assert_eq!(done.migrations.first().map(String::as_str), Some("0013_alerts"));
    // If the very first migration fails, not even the schema stays.
    let (db, client) = mesh_with(
        "create type public.delivery_state as enum ('x'); create schema postbell;
                                  create table postbell.deliveries (x int)",
    )
    .await;
    let failed =
        migrate_with(&db.target(), Rehearsal::Without).await.expect_err("a table is there").to_string();
    assert!(failed.contains("0001_broker_tables") && failed.contains("Nothing was changed"), "{failed}");
    assert_eq!(number(&client, "select count(*) from pg_class where relname = 'migrations'").await, 0);
}

#[tokio::test]
async fn the_rehearsal_waits_for_a_table_in_use_for_a_moment_only() {
    let (db, client) = mesh_with("").await;
    client.batch("begin; lock table agent_registry in share mode").await.expect("lock");
    let began = Instant::now();
    let said = plan(&db.client().await).await.expect_err("locked");
    assert!(
        said.is_retryable() && said.to_string().contains("another transaction holds the table"),
        "{said}"
    );
    assert!(began.elapsed() < Duration::from_secs(30), "as long as anybody would wait behind it");
    client.batch("commit").await.expect("commit");
}
