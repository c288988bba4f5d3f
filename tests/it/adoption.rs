//! A mesh that lives already is taken over without a loss; a database that is no mesh is left alone.

use postbell::store::migrate::{migrate, plan};
use postbell::store::{Connection, Target};

use crate::harness::{EXISTING_MESH, TestDb, fresh, number, roles, text, texts};

/// The rows in their old columns, as one text.
const CONTENTS: &str = "
    select string_agg(r, E'\\n' order by r) from (
      select (message_id, from_agent_id, to_agent_id, message_type, payload, priority, status, created_at,
              delivered_at, processed_at, error_message)::text from agent_messages
      union all
      select (agent_id, agent_name, agent_type, environment, status, last_heartbeat, capabilities, endpoint_url,
              metadata, created_at, updated_at)::text from agent_registry
    ) rows (r)";

async fn existing_mesh() -> (TestDb, Connection) {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    (db, client)
}

#[tokio::test]
async fn every_row_stays_and_pending_ones_get_deliveries() {
    let (db, client) = existing_mesh().await;
    let before = text(&client, CONTENTS).await;
    let waiting = number(&client, "select count(*) from agent_messages where status = 'pending'").await;
    let planned = plan(&client).await.expect("plan").adoption.expect("adoption");
    assert_eq!((planned.adopts.len(), planned.creates.len(), planned.waiting), (4, 0, waiting));

    let done = migrate(&db.target()).await.expect("migrate");
    assert!(text(&client, CONTENTS).await == before, "a row changed");
    let deliveries = number(&client, "select count(*) from postbell.deliveries").await;
    assert_eq!(done.deliveries, u64::try_from(deliveries).ok());

    // Each pending message has exactly its recipients: itself direct, or all but the sender.
    let wrong = "
        with wanted as (
          select m.message_id, coalesce(m.to_agent_id, r.agent_id) as inbox, m.priority::smallint
          from agent_messages m
          left join agent_registry r on m.to_agent_id is null and r.agent_id <> m.from_agent_id
          where m.status = 'pending'
        ), found as (select message_id, inbox, priority from postbell.deliveries where state = 'ready' and attempt = 0)
        select count(*) from ((table wanted except all table found) union all (table found except all table wanted)) x";
    assert_eq!(number(&client, wrong).await, 0);
    let broadcasts = "select count(*) from postbell.deliveries join agent_messages m using (message_id)
                      where m.to_agent_id is null";
    let pending = "select 4 * count(*) from agent_messages where to_agent_id is null and status = 'pending'";
    assert_eq!(number(&client, broadcasts).await, number(&client, pending).await);
    assert!(number(&client, pending).await > 0, "the fixture has broadcasts that wait");

    // Deliveries are in the order of the messages' creation.
    let disorder = "select count(*) from (
                      select m.created_at < lag(m.created_at) over (order by d.delivery_id) as earlier
                      from postbell.deliveries d join agent_messages m using (message_id)) x where earlier";
    assert_eq!(number(&client, disorder).await, 0);

    assert!(migrate(&db.target()).await.expect("again").is_empty());
    assert_eq!(number(&client, "select count(*) from postbell.deliveries").await, deliveries);
}

#[tokio::test]
async fn its_pollers_keep_working_and_take_their_deliveries_along() {
    let (db, client) = existing_mesh().await;
    let poll = "select string_agg(message_id::text, ',' order by priority, created_at)
                from get_pending_messages('validation-agent')";
    let before = text(&client, poll).await;
    migrate(&db.target()).await.expect("migrate");
    assert_eq!(text(&client, poll).await, before);

    // A poller marks the messages that it took as delivered, and then as processed or failed.
    let direct = "select count(*) from postbell.deliveries d join agent_messages m using (message_id)
                  where m.to_agent_id = 'validation-agent'";
    let all = number(&client, direct).await;
    let some = "select message_id from agent_messages
                where to_agent_id = 'validation-agent' and status in ('pending', 'delivered')
                  and error_message is null and created_at is not null
                  and message_id in (select message_id from postbell.deliveries) order by created_at limit 10";
    let set =
        |status: &str| format!("update agent_messages set status = '{status}' where message_id in ({some})");
    client.batch(&set("delivered")).await.expect("delivered");
    assert_eq!(number(&client, direct).await, all, "taking it is not yet handling it");
    client.batch(&set("processed")).await.expect("processed");
    assert_eq!(number(&client, direct).await, all - 10);

    // The old columns alone are enough to send.
    client
        .batch(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             values ('old', 'validation-agent', 'command', '{\"n\": 1}')",
        )
        .await
        .expect("insert");
    assert_eq!(number(&client, direct).await, all - 9);
}

#[tokio::test]
async fn a_broadcast_that_a_poller_marks_stays_with_its_other_recipients() {
    let (db, client) = existing_mesh().await;
    migrate(&db.target()).await.expect("migrate");
    let count = "select count(*) from postbell.deliveries join agent_messages m using (message_id)
                 where m.to_agent_id is null";
    let before = number(&client, count).await;
    client
        .batch(
            "update agent_messages set status = 'processed' where to_agent_id is null and status = 'pending'",
        )
        .await
        .expect("poll");
    assert_eq!(number(&client, count).await, before);
}

#[tokio::test]
async fn odd_rows_are_routed_as_new_ones_would_be() {
    let db = fresh().await;
    let client = db.client().await;
    client
        .batch(
            "create table agent_messages (
               message_id uuid not null unique, from_agent_id varchar(50) not null, to_agent_id varchar(50),
               message_type varchar(20), payload jsonb, priority smallint, status varchar(20), created_at timestamptz,
               delivered_at timestamptz, processed_at timestamptz, error_message varchar,
               expires_at timestamptz, deliver_at timestamptz);
             insert into agent_messages (message_id, from_agent_id, to_agent_id, priority, status, created_at,
                                         expires_at, deliver_at)
             values (gen_random_uuid(), 'a', 'low', 99, null, now() - interval '5 s', null, null),
                    (gen_random_uuid(), 'a', 'high', -3, 'pending', now() - interval '4 s', null, null),
                    (gen_random_uuid(), 'a', 'middle', null, 'pending', now() - interval '3 s', null, null),
                    (gen_random_uuid(), 'a', 'expired', 5, 'pending', now(), now() - interval '1 s', null),
                    (gen_random_uuid(), 'a', 'later', 5, 'pending', now(), null, now() + interval '1 h')",
        )
        .await
        .expect("an odd mesh");
    let done = migrate(&db.target()).await.expect("migrate");
    let adoption = done.adoption.expect("adoption");
    assert_eq!(
        (adoption.adopts, adoption.creates),
        (vec!["agent_messages"], vec!["agent_registry", "agent_alerts", "agent_metrics"])
    );
    let found = texts(
        &client,
        "select inbox || ' ' || priority || ' ' || state from postbell.deliveries order by delivery_id",
    )
    .await;
    assert_eq!(found, ["low 10 ready", "high 1 ready", "middle 5 ready", "later 5 scheduled"]);
    // The table that the migration created is closed; the one that it found is as it was.
    let closed = "select string_agg(relname, ',') from pg_class
                  where relname in ('agent_messages', 'agent_registry') and relrowsecurity";
    assert_eq!(text(&client, closed).await, "agent_registry");
}

/// The sentence that refuses this database. Nothing may have changed.
async fn refusal(setup: &str) -> String {
    let db = fresh().await;
    let client = db.client().await;
    client.batch(setup).await.expect(setup);
    let before = text(&client, EVERYTHING).await;
    let planned = plan(&client).await.expect_err("the plan refuses").to_string();
    let refused = migrate(&db.target()).await.expect_err("refused").to_string();
    assert_eq!(planned, refused);
    assert_eq!(text(&client, EVERYTHING).await, before, "{refused}");
    refused
}

/// Everything that a migration could leave behind.
const EVERYTHING: &str = "
    select string_agg(x, ',' order by x collate \"C\") from (
      select oid || ' ' || nspname from pg_namespace where nspname !~ '^pg_(toast_)?temp'
      union all
      select c.oid || ' ' || relname || ' ' || attname from pg_class c join pg_attribute a on a.attrelid = c.oid
      where relnamespace = 'public'::regnamespace
    ) t (x)";

#[tokio::test]
async fn chat_history_is_left_alone() {
    let refused = refusal(
        "create table agent_messages (id bigserial primary key, session_id text not null, role text, content text);
         insert into agent_messages (session_id, role, content) values ('s', 'user', 'hello')",
    )
    .await;
    for part in [
        "public.agent_messages has id, session_id, role, content: it is something else, chat history perhaps",
        "it lacks",
        "from_agent_id",
        "Nothing was changed",
        "POSTBELL_SCHEMA",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

#[tokio::test]
async fn a_fault_is_named() {
    let with = |change: &str| format!("{EXISTING_MESH_TABLES} {change}");
    for (change, part) in [
        (
            "alter table agent_messages drop column delivered_at;",
            "agent_messages cannot be adopted: it lacks delivered_at",
        ),
        ("alter table agent_messages alter payload type text;", "payload is text, not jsonb"),
        (
            "alter table agent_messages alter created_at type timestamp;",
            "created_at is timestamp without time zone, not",
        ),
        ("alter table agent_messages add tenant int not null;", "tenant must be given with each row"),
        ("alter table agent_messages add correlation_id uuid;", "correlation_id is uuid, not text"),
        ("alter table agent_messages drop constraint agent_messages_pkey;", "message_id is no primary key"),
        (
            "alter table agent_registry add role int;",
            "public.agent_registry cannot be adopted: role is integer",
        ),
        (
            "alter table agent_registry add connected_to int;",
            "agent_registry cannot be adopted: connected_to is integer, not uuid[]",
        ),
        (
            "create table agent_alerts (id int primary key, rule text, notify text);",
            "agent_alerts has id, rule, notify: it is something else. As a table of alerts it lacks acknowledged_at, agent_id",
        ),
        (
            "create table agent_metrics (agent_id text, metric_name text, metric_value text, recorded_at timestamptz);",
            "agent_metrics cannot be adopted: metric_value is text, not numeric or float8",
        ),
        (
            "drop table agent_registry; create view agent_registry as select 1 as agent_id;",
            "it is a view, not",
        ),
    ] {
        let refused = refusal(&with(change)).await;
        assert!(refused.contains(part), "{part}: {refused}");
    }
}

/// The fewest columns that a mesh has.
const EXISTING_MESH_TABLES: &str = "
    create table agent_messages (
      message_id uuid primary key, from_agent_id text, to_agent_id text, message_type text, payload jsonb,
      priority int, status text, created_at timestamptz, delivered_at timestamptz, processed_at timestamptz,
      error_message text);
    create table agent_registry (
      agent_id text primary key, agent_name text, agent_type text, environment text, status text,
      last_heartbeat timestamptz, updated_at timestamptz);";

#[tokio::test]
async fn a_refused_database_can_give_postbell_a_schema_of_its_own() {
    let db = fresh().await;
    let client = db.client().await;
    client.batch("create table agent_messages (session_id text); create schema mesh").await.expect("chat");
    migrate(&db.target()).await.expect_err("refused");
    let mesh: Target = db.target_in("mesh");
    migrate(&mesh).await.expect("migrate");
    let columns =
        "select count(*) from pg_attribute where attrelid = 'public.agent_messages'::regclass and attnum > 0";
    assert_eq!(number(&client, columns).await, 1);
}

#[tokio::test]
async fn a_table_in_use_is_not_waited_for_long() {
    let (db, client) = existing_mesh().await;
    client.batch("begin; lock table agent_messages in share mode").await.expect("lock");
    let refused = migrate(&db.target()).await.expect_err("locked").to_string();
    assert!(refused.contains("0002_agent_tables was not applied, and nothing of it remains"), "{refused}");
    client.batch("commit").await.expect("commit");
    migrate(&db.target()).await.expect("goes on where it stopped");
}

/// A dedupe key could not be unique across partitions, and a statement that names a partition fires no trigger of the table.
#[tokio::test]
async fn a_partitioned_table_is_refused_by_that_name() {
    let db = fresh().await;
    let make = "create table agent_messages (message_id uuid primary key, from_agent_id text) partition by hash (message_id)";
    db.client().await.batch(make).await.expect("a table");
    let refused = migrate(&db.target()).await.expect_err("refused").to_string();
    assert!(
        refused.contains("it is a partitioned table") && refused.contains("Nothing was changed"),
        "{refused}"
    );
}
