//! Migrations, the dump of what they make, and the triggers.

use postbell::store::Connection;
use postbell::store::migrate::{
    MIGRATIONS, SchemaState, migrate, plan, schema_state, status, version_wanted,
};
use tokio_postgres::types::ToSql;

use crate::harness::{TestDb, fresh, migrated, number, text, texts};

const DUMP: &str = include_str!("../../sql/schema_dump.sql");
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/schema.sql");
const HEADER: &str = "-- What the migrations and triggers make, written by the test `schema_sql_is_what_the_migrations_make`\n\
                      -- (POSTBELL_BLESS=1 cargo test schema_sql). Read it to know the tables; never run or edit it.\n\n";

#[tokio::test]
async fn schema_sql_is_what_the_migrations_make() {
    let db = migrated().await;
    let dump = format!("{HEADER}{}", text(&db.client().await, DUMP).await);
    if std::env::var_os("POSTBELL_BLESS").is_some() {
        std::fs::write(FILE, &dump).expect("sql/schema.sql");
    }
    let file = std::fs::read_to_string(FILE).unwrap_or_default().replace("\r\n", "\n");
    assert!(
        file == dump,
        "sql/schema.sql differs: POSTBELL_BLESS=1 cargo test schema_sql, then read the diff"
    );
}

#[tokio::test]
async fn a_second_migrate_does_nothing() {
    let db = fresh().await;
    let connection = Connection::open(&db.target()).await.expect("connect");
    assert_eq!(schema_state(&connection).await.expect("state"), SchemaState::Missing);
    let planned = plan(&connection).await.expect("plan");
    assert_eq!(schema_state(&connection).await.expect("state"), SchemaState::Missing);

    let done = migrate(&db.target()).await.expect("migrate");
    assert_eq!((done.migrations, done.triggers), (planned.migrations, planned.triggers));
    assert_eq!(schema_state(&connection).await.expect("state"), SchemaState::Current);
    let before = text(&connection, "select string_agg(m::text, '') from postbell.migrations m").await;

    let again = migrate(&db.target()).await.expect("migrate again");
    assert!(again.is_empty());
    assert_eq!(text(&connection, "select string_agg(m::text, '') from postbell.migrations m").await, before);
    let status = status(&connection).await.expect("status");
    assert!(
        status.lines.iter().all(|l| matches!(l.state, "applied" | "installed") && l.applied_at.is_some())
    );
}

/// A database as an older version's migrations left it.
async fn older(version: i32) -> TestDb {
    let db = fresh().await;
    let client = db.client().await;
    client.batch(include_str!("../../sql/queries/migrations_bootstrap.sql")).await.expect("bootstrap");
    let record = "insert into postbell.migrations (version, name, sha256)
                  values ($1, $2, encode(sha256(convert_to($3, 'UTF8')), 'hex'))";
    for migration in MIGRATIONS.iter().filter(|m| m.version <= version) {
        for sql in migration.statements() {
            client.batch(&sql).await.expect(migration.name);
        }
        let params = [&migration.version as &(dyn ToSql + Sync), &migration.name, &migration.sql];
        client.execute(record, &params).await.expect(migration.name);
    }
    db
}

const AGENTS: &str = "insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
    values ('a', 'a', 't', 'pc', 'busy'), ('b', 'b', 't', 'pc', 'offline')";

#[tokio::test]
async fn an_older_database_is_brought_up_with_the_agents_it_has() {
    let db = older(10).await;
    let client = db.client().await;
    client.batch(AGENTS).await.expect("agents");
    let done = migrate(&db.target()).await.expect("migrate");
    let adoption = done.adoption.expect("tables are added");
    assert_eq!((adoption.adopts, adoption.creates), (vec![], vec!["agent_alerts", "agent_metrics"]));
    let spans =
        "select agent_id || ' ' || status from postbell.presence_history where until = 'infinity' order by 1";
    assert_eq!(texts(&client, spans).await, ["a online", "b offline"]);
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Current);
}

#[tokio::test]
async fn a_registry_that_got_other_columns_meanwhile_is_refused_before_anything_is_changed() {
    let db = older(10).await;
    let client = db.client().await;
    client.batch("alter table agent_registry add connected_to text").await.expect("a column");
    let refused = migrate(&db.target()).await.expect_err("refused").to_string();
    assert!(
        refused.contains("agent_registry cannot be adopted: connected_to is text, not uuid[]"),
        "{refused}"
    );
    assert_eq!(number(&client, "select max(version)::bigint from postbell.migrations").await, 10);
}

#[tokio::test]
async fn several_at_once_apply_each_migration_once() {
    let db = fresh().await;
    let target = db.target();
    let (a, b, c) = tokio::join!(migrate(&target), migrate(&target), migrate(&target));
    let done = [a.expect("a"), b.expect("b"), c.expect("c")];
    assert_eq!(done.iter().filter(|plan| !plan.is_empty()).count(), 1);
    assert_eq!(
        number(&db.client().await, "select count(*) from postbell.migrations").await,
        i64::from(version_wanted())
    );
}

#[tokio::test]
async fn a_newer_or_changed_schema_is_refused() {
    let db = migrated().await;
    let client = db.client().await;
    client.batch("insert into postbell.migrations values (999, 'later', 'x')").await.expect("insert");
    let wanted = version_wanted();
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Newer { found: 999, wanted });
    let refused = migrate(&db.target()).await.expect_err("newer").to_string();
    assert!(refused.contains(&format!("newer than the {wanted}")), "{refused}");

    client
        .batch("delete from postbell.migrations where version = 999; update postbell.migrations set sha256 = 'x'")
        .await
        .expect("tamper");
    let refused = migrate(&db.target()).await.expect_err("tampered").to_string();
    assert!(
        refused.contains("0001_broker_tables was applied to this database with another text"),
        "{refused}"
    );
    assert!(schema_state(&client).await.expect("state").refusal().is_some());
}

#[tokio::test]
async fn another_schema_of_the_same_database_is_refused() {
    let db = migrated().await;
    db.client().await.batch("create schema mesh").await.expect("schema");
    let refused = migrate(&db.target_in("mesh")).await.expect_err("other schema").to_string();
    assert!(refused.contains("POSTBELL_SCHEMA=public"), "{refused}");

    let db = fresh().await;
    let refused = migrate(&db.target_in("mesh")).await.expect_err("no such schema").to_string();
    assert!(refused.contains("does not exist"), "{refused}");
}

#[tokio::test]
async fn the_tables_may_live_in_another_schema() {
    let db = fresh().await;
    db.client().await.batch("create schema \"my mesh\"").await.expect("schema");
    migrate(&db.target_in("my mesh")).await.expect("migrate");
    let connection = Connection::open(&db.target_in("my mesh")).await.expect("connect");
    assert_eq!(schema_state(&connection).await.expect("state"), SchemaState::Current);
    let insert = "insert into \"my mesh\".agent_messages (from_agent_id, to_agent_id, message_type, payload)
                  values ('a', 'b', 'data', '{}')";
    db.client().await.batch(insert).await.expect("insert");
    assert_eq!(number(&connection, "select count(*) from postbell.deliveries").await, 1);
}

#[tokio::test]
async fn what_came_while_the_trigger_was_gone_is_delivered() {
    for lose in [
        "drop trigger postbell_route on agent_messages",
        "alter table agent_messages disable trigger postbell_route",
        "drop function postbell.route_messages() cascade",
    ] {
        let db = migrated().await;
        let client = db.client().await;
        client.batch(&insert("'before'", "'pending'")).await.expect("insert");
        client.batch(lose).await.expect(lose);
        client.batch(&insert("'meanwhile'", "'pending'")).await.expect("insert");
        client.batch(&insert("'history'", "'processed'")).await.expect("insert");
        let state = schema_state(&client).await.expect("state");
        assert_eq!(state, SchemaState::TriggersStale(vec!["postbell_route".to_owned()]), "{lose}");

        let done = migrate(&db.target()).await.expect("migrate");
        assert_eq!(done.deliveries, Some(1), "{lose}");
        client.batch(&insert("'after'", "null")).await.expect("insert");
        let inboxes = texts(&client, "select inbox from postbell.deliveries order by delivery_id").await;
        assert_eq!(inboxes, ["before", "meanwhile", "after"], "{lose}");
    }
}

fn insert(to: &str, status: &str) -> String {
    format!(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, status)
         values ('a', {to}, 'data', '{{}}', {status})"
    )
}

#[tokio::test]
async fn a_trigger_of_another_version_is_replaced() {
    let db = migrated().await;
    let client = db.client().await;
    client.batch("update postbell.triggers set sha256 = 'old' where name = 'route'").await.expect("update");
    let done = migrate(&db.target()).await.expect("migrate");
    assert_eq!((done.triggers, done.deliveries), (vec!["postbell_route".to_owned()], None));
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Current);
}

#[tokio::test]
async fn ids_are_version_7_and_increase() {
    let db = migrated().await;
    let client = db.client().await;
    let sql = "select string_agg(distinct substr(id::text, 15, 1) || (substr(id::text, 20, 1) in ('8', '9', 'a', 'b'))::text, ',')
               from (select postbell.uuid_v7() as id from generate_series(1, 1000)) ids";
    assert_eq!(text(&client, sql).await, "7true");
    let mut last = String::new();
    for _ in 0..5 {
        // Each id is made at least a millisecond after the one before: within a millisecond the order is random.
        let id = text(&client, "select postbell.uuid_v7()::text from pg_sleep(0.002)").await;
        assert!(id > last, "{id} after {last}");
        last = id;
    }
}

#[tokio::test]
async fn every_way_of_inserting_routes_every_row() {
    let db = migrated().await;
    let client = db.client().await;
    let count = "select count(*) from postbell.deliveries";
    client.batch(&format!("begin; {}; rollback", insert("'x'", "'pending'"))).await.expect("rolled back");
    assert_eq!(number(&client, count).await, 0);
    client
        .batch(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority)
             select 'a', 'inbox ' || n % 3, 'data', '{}', 1 + n % 10 from generate_series(1, 100) n",
        )
        .await
        .expect("many");
    assert_eq!(number(&client, count).await, 100);
    client
        .batch(
            "copy agent_messages (from_agent_id, to_agent_id, message_type, payload)
             from program 'for i in 1 2 3; do printf \"a\\tcopied\\tdata\\t{}\\n\"; done'",
        )
        .await
        .expect("copy");
    assert_eq!(number(&client, "select count(*) from postbell.deliveries where inbox = 'copied'").await, 3);
    client.batch("truncate agent_messages").await.expect("truncate");
    assert_eq!(number(&client, count).await, 0);
}

#[tokio::test]
async fn who_may_only_insert_can_send_and_read_nothing() {
    let db = migrated().await;
    let owner = db.client().await;
    // Roles belong to the server, and so exist for every test of this process.
    owner
        .batch(
            "create role producer login password 'secret'; grant insert on agent_messages to producer;
             create policy producers on agent_messages for insert to producer with check (true);
             insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
             values ('one', 'One', 'agent', 'pc', 'offline'), ('two', 'Two', 'agent', 'pc', 'offline')",
        )
        .await
        .expect("role");
    let producer = db.client_as("producer").await;
    producer.batch(&insert("'b'", "'pending'")).await.expect("send");
    producer.batch(&insert("null", "'pending'")).await.expect("broadcast");
    let inboxes = texts(&owner, "select inbox from postbell.deliveries order by delivery_id").await;
    assert_eq!(inboxes, ["b", "one", "two"]);
    for denied in [
        "select * from postbell.deliveries",
        "select * from postbell.agents",
        "select postbell.route_messages()",
        "select * from agent_messages",
        "delete from postbell.deliveries",
    ] {
        let error = producer.batch(denied).await.expect_err(denied);
        assert_eq!(error.sqlstate(), Some("42501"), "{denied}: {error}");
    }
}
