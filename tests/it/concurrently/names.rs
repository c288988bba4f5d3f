//! An index, or anything else, of the user's own that has the name of one of Postbell's is left alone and told.

use postbell::store::migrate::{SchemaState, migrate, plan, schema_state};

use super::mesh;
use crate::harness::{command, migrated, number, text, texts};
use crate::mesh::insert;
use crate::rehearsal::everything;

#[tokio::test]
async fn whatever_has_the_name_already_is_left_alone_and_told() {
    for (make, name) in [
        ("create index agent_messages_expires on agent_messages (from_agent_id)", "agent_messages_expires"),
        ("create index agent_messages_dedupe on agent_messages (from_agent_id)", "agent_messages_dedupe"),
        ("create index agent_messages_expires on agent_registry (agent_name)", "agent_messages_expires"),
        ("create view agent_messages_expires as select 1 as one", "agent_messages_expires"),
        ("create index agent_metrics_recorded_at on agent_metrics (agent_id)", "agent_metrics_recorded_at"),
        (
            "alter table agent_messages add expires_at timestamptz;
             create index agent_messages_expires on agent_messages (expires_at)",
            "agent_messages_expires",
        ),
    ] {
        let db = mesh().await;
        let client = db.client().await;
        client.batch(make).await.expect(make);
        let before = everything(&client).await;
        let planned = plan(&client).await.expect_err(make).to_string();
        let refused = migrate(&db.target()).await.expect_err(make).to_string();
        assert_eq!(everything(&client).await, before, "{make}");
        for part in [&format!("public.{name} is something of your own"), "rename to", "Nothing was changed"] {
            assert!(planned.contains(part) && refused.contains(part), "{make}: {part} is not in {refused}");
        }
    }
}

/// The same index under that name is taken as it is, and so is another that serves as well.
#[tokio::test]
async fn an_index_that_serves_is_not_built_again() {
    let db = mesh().await;
    let client = db.client().await;
    let make = "alter table agent_messages add expires_at timestamptz;
                create index agent_messages_expires on agent_messages (expires_at) where expires_at is not null;
                create index mine on agent_metrics (recorded_at desc, agent_id)";
    client.batch(make).await.expect("indexes");
    let done = migrate(&db.target()).await.expect("migrated");
    let of_old =
        |built: &&String| ["dedupe", "expires", "recorded_at"].iter().any(|part| built.contains(part));
    let built: Vec<_> = done.builds.iter().filter(of_old).collect();
    assert_eq!(built, ["agent_messages_dedupe on agent_messages"]);
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Current);
}

/// The table had that name before, and the index is Postbell's own.
#[tokio::test]
async fn an_index_that_an_older_table_took_along_is_built_on_the_new_one() {
    let db = migrated().await;
    let client = db.client().await;
    let replace = "alter table agent_messages rename to agent_messages_before;
                   create table agent_messages (like agent_messages_before including defaults including constraints,
                                                primary key (message_id))";
    client.batch(replace).await.expect("replaced");
    insert(&db.sql().await, "a", 5, "1").await;
    let done = migrate(&db.target()).await.expect("mended");
    assert_eq!(done.left, [""; 0]);
    let of = "select indrelid::regclass::text from pg_index where indexrelid = 'agent_messages_dedupe'::regclass and indisvalid";
    assert_eq!(texts(&client, of).await, ["agent_messages"]);
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Current);
}

/// Later as well: a broker's upkeep would otherwise drop an index that somebody made.
#[tokio::test]
async fn an_index_that_somebody_put_in_the_place_of_ours_is_left_and_told() {
    let db = migrated().await;
    let client = db.client().await;
    insert(&db.sql().await, "a", 5, "1").await;
    let replace = "drop index agent_messages_expires; create index agent_messages_expires on agent_messages (message_type)";
    client.batch(replace).await.expect("replaced");
    let oid = "select 'agent_messages_expires'::regclass::oid::bigint";
    let before = number(&client, oid).await;
    let ended = command(&db, &["migrate"]).await;
    assert_eq!(ended.status, 1, "{}", ended.stdout);
    for part in ["index agent_messages_expires on agent_messages", "an index of your own", "rename to"] {
        assert!(ended.stdout.contains(part), "{part} is not in {}", ended.stdout);
    }
    assert_eq!(number(&client, oid).await, before);
    client.batch("alter index agent_messages_expires rename to mine").await.expect("renamed");
    assert_eq!(migrate(&db.target()).await.expect("mended").left, [""; 0]);
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Current);
    let names = "select string_agg(relname, ' ' order by relname) from pg_class where relname in ('mine', 'agent_messages_expires')";
    assert_eq!(text(&client, names).await, "agent_messages_expires mine");
    assert_eq!(texts(&client, "select inbox from postbell.deliveries").await, ["a"]);
}
