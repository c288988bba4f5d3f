//! Objects that this version needs and that somebody drops, disables, renames or changes are named, and mended or
//! given a way out; afterwards messages live.

mod anything;
mod copies;
mod running;
mod users;

use postbell::store::Connection;
use postbell::store::doctor::{Check, Level, examine};
use postbell::store::drift::{self, Object};
use postbell::store::migrate::{MIGRATIONS, TRIGGERS, migrate, plan, schema_state};

use crate::harness::{EXISTING_MESH, TestDb, command, fresh, migrated, number, roles, texts};
use crate::mesh::{Mesh, insert, next};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/needed.json");

#[tokio::test]
async fn needed_json_is_what_the_migrations_make() {
    // The texts of the migrations alone: `migrate` would mend the database to the list that is compared here.
    let db = fresh().await;
    let client = Connection::open(&db.target()).await.expect("connect");
    run(&client, include_str!("../../sql/queries/migrations_bootstrap.sql")).await;
    let triggers = TRIGGERS.iter().map(|t| t.sql.to_owned());
    for sql in MIGRATIONS.iter().flat_map(|m| m.statements()).chain(triggers) {
        run(&client, &sql).await;
    }
    let found: Vec<Object> = drift::read(&client).await.expect("the catalog");
    let text = serde_json::to_string_pretty(&found).expect("JSON") + "\n";
    if std::env::var_os("POSTBELL_BLESS").is_some() {
        std::fs::write(FILE, &text).expect("sql/needed.json");
        return;
    }
    assert_eq!(drift::needed(), found, "sql/needed.json differs: POSTBELL_BLESS=1 cargo test needed_json");
}

/// The doctor's complaints about the schema.
async fn told(db: &TestDb) -> String {
    let checks: Vec<Check> = examine(&db.target()).await;
    let of = |c: &&Check| c.level == Level::Fail && ["schema", "triggers", "rights"].contains(&c.check);
    checks.iter().filter(of).map(|c| c.sentence.as_str()).collect::<Vec<_>>().join("\n")
}

/// A broker starts on the database, and a message is inserted by plain SQL, pushed, acknowledged and marked.
async fn a_message_lives(db: &TestDb, why: &str) {
    let mesh = Mesh::on(db.clone(), &[]).await;
    let (_client, mut deliveries) = mesh.connect("lives", 10).await;
    insert(&mesh.db.sql().await, "lives", 1, "\"alive\"").await;
    loop {
        let delivery = next(&mut deliveries).await;
        let done = delivery.payload().to_string().contains("alive");
        delivery.ack_confirmed().await.expect("acknowledged");
        if done {
            break;
        }
    }
    let left = "select count(*) = 0 from agent_messages where to_agent_id = 'lives' and payload = '\"alive\"' and status <> 'processed'";
    mesh.db.until(left).await;
    let (_, stopped) = mesh.stop().await;
    assert!(!stopped.broken, "{why}");
}

async fn run(client: &Connection, sql: &str) {
    client.batch(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

#[tokio::test]
async fn an_adopted_mesh_has_not_drifted() {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    let done = migrate(&db.target()).await.expect("migrate");
    assert_eq!(done.mends, [""; 0]);
    let client = Connection::open(&db.target()).await.expect("connect");
    let found: Vec<_> =
        drift::differences(&client).await.expect("the catalog").iter().map(|d| d.sentence()).collect();
    assert_eq!(found, [""; 0]);
}

/// Each case is a statement of somebody's, and the words by which the doctor names the damage.
const CASES: &[(&str, &str)] = &[
    ("alter table agent_messages drop column topic cascade", "column agent_messages.topic is missing"),
    ("alter table agent_messages drop column to_group cascade", "column agent_messages.to_group is missing"),
    ("alter table agent_registry drop column connected_to", "column agent_registry.connected_to is missing"),
    ("alter table agent_messages drop column payload cascade", "column agent_messages.payload is missing"),
    ("alter table postbell.deliveries drop column txid cascade", "column postbell.deliveries.txid is missing"),
    ("alter table postbell.deliveries alter txid drop default", "column postbell.deliveries.txid is"),
    ("drop sequence postbell.bell cascade", "sequence postbell.bell is missing"),
    ("drop sequence postbell.epochs cascade", "sequence postbell.epochs is missing"),
    ("drop table postbell.deliveries cascade", "table postbell.deliveries is missing"),
    ("drop table postbell.migrations", "without its record of migrations"),
    ("drop table postbell.role_limits", "table postbell.role_limits is missing"),
    ("drop type postbell.delivery_state cascade", "type postbell.delivery_state is missing"),
    ("drop index postbell.deliveries_lane", "index deliveries_lane on postbell.deliveries is missing"),
    ("drop index agent_messages_dedupe", "index agent_messages_dedupe on agent_messages is missing"),
    ("alter table agent_messages drop constraint agent_messages_pkey", "agent_messages.message_id is no primary key"),
    ("drop function postbell.recipients cascade", "function postbell.recipients(text,text,text) is missing"),
    ("drop function postbell.route_messages() cascade", "postbell_route is missing"),
    ("drop trigger postbell_unseen on agent_messages", "postbell_unseen"),
    ("alter table agent_messages disable trigger postbell_route", "postbell_route"),
    ("alter table agent_messages disable trigger all", "postbell_route, postbell_truncated, postbell_unseen"),
    ("alter table agent_messages rename to agent_messages_old", "table agent_messages is missing"),
    (
        "alter table agent_messages rename to agent_messages_old;
         create table agent_messages (like agent_messages_old including defaults including constraints including indexes)",
        "view postbell.messages is not as this version needs it",
    ),
    ("drop table agent_messages cascade", "table agent_messages is missing"),
    ("drop table agent_registry cascade", "table agent_registry is missing"),
    ("drop schema public cascade; create schema public", "table agent_messages is missing"),
    ("drop schema postbell cascade", "no Postbell schema yet"),
    ("alter trigger postbell_route on agent_messages rename to postman", "postbell_route"),
    ("alter table agent_messages alter to_agent_id type varchar(40) using null", ""),
];

#[tokio::test]
async fn each_is_named_and_mended_and_a_message_lives() {
    for (break_it, name) in CASES {
        let db = migrated().await;
        let client = db.client().await;
        run(
            &client,
            "insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
                      values ('x', 'x', 't', 'pc', 'offline')",
        )
        .await;
        if client.batch(break_it).await.is_err() {
            // Postgres itself refuses the statement, and names the view that needs the object.
            assert!(name.is_empty(), "{break_it}");
            continue;
        }
        let said = told(&db).await;
        assert!(said.contains(name), "{break_it}: {said}");
        assert!(said.contains("`postbell migrate`"), "{break_it}: {said}");
        let state = schema_state(&client).await.expect("state");
        assert!(state.refusal().is_some(), "{break_it}");
        let planned = plan(&Connection::open(&db.target()).await.expect("connect")).await.expect(break_it);
        assert!(!planned.is_empty(), "{break_it}: nothing to do");

        let done = migrate(&db.target()).await.unwrap_or_else(|e| panic!("{break_it}: {e}"));
        assert_eq!(done.left, [""; 0], "{break_it}");
        assert_eq!(told(&db).await, "", "{break_it}");
        let again = migrate(&db.target()).await.expect("again");
        assert!(again.is_empty(), "{break_it}: {again:?}");
        a_message_lives(&db, break_it).await;
    }
}

/// The user's INSERT is worth more than its delivery, which comes once the schema is whole again.
#[tokio::test]
async fn an_insert_into_a_broken_schema_is_stored_and_delivered_later() {
    for break_it in [
        "drop table postbell.deliveries cascade",
        "alter table agent_messages drop column to_group cascade",
        "alter table postbell.deliveries drop column inbox cascade",
        "drop sequence postbell.bell cascade",
        "drop function postbell.recipients cascade",
        "drop view postbell.messages cascade",
        "drop schema postbell cascade",
    ] {
        let db = migrated().await;
        let client = db.client().await;
        run(&client, break_it).await;
        run(
            &client,
            "insert into agent_messages (message_id, from_agent_id, to_agent_id, message_type, payload)
                      values (gen_random_uuid(), 's', 'a', 'data', '1')",
        )
        .await;
        run(
            &client,
            "insert into agent_alerts (alert_id, agent_id, alert_type, severity, message)
                      values (gen_random_uuid(), 'a', 't', 'high', 'm')",
        )
        .await;
        run(
            &client,
            "update agent_messages set status = 'delivered'; update agent_messages set status = 'pending'",
        )
        .await;
        run(
            &client,
            "insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
                      values ('n', 'n', 't', 'pc', 'online'); update agent_registry set status = 'offline'",
        )
        .await;
        let done = migrate(&db.target()).await.expect(break_it);
        assert_eq!(done.left, [""; 0], "{break_it}");
        let inboxes = texts(&client, "select inbox from postbell.deliveries where inbox = 'a'").await;
        assert_eq!(inboxes, ["a"], "{break_it}");
    }
}

#[tokio::test]
async fn what_only_the_user_can_mend_is_said_with_the_way_out() {
    for (break_it, name, way) in [
        (
            "alter table agent_messages drop column message_id cascade",
            "agent_messages.message_id",
            "restore the table from a back-up",
        ),
        (
            "alter table postbell.deliveries drop column inbox cascade",
            "postbell.deliveries.inbox",
            "`truncate postbell.deliveries`",
        ),
        (
            "alter table agent_messages alter topic set default 'general'",
            "agent_messages.topic",
            "drop default",
        ),
        (
            "update agent_messages set ordering_key = ''; alter table agent_messages alter ordering_key set not null",
            "agent_messages.ordering_key",
            "drop not null",
        ),
        (
            "alter table agent_messages drop column headers; alter table agent_messages add headers integer",
            "agent_messages.headers",
            "make the column jsonb",
        ),
    ] {
        let db = migrated().await;
        let client = db.client().await;
        run(&client, "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ('s', 'a', 'data', '1')").await;
        run(&client, break_it).await;
        let said = told(&db).await;
        assert!(said.contains(name), "{break_it}: {said}");
        let ended = command(&db, &["migrate"]).await;
        assert_eq!(ended.status, 1, "{break_it}: {}", ended.stdout);
        assert!(ended.stdout.contains(name) && ended.stdout.contains(way), "{break_it}: {}", ended.stdout);
        assert!(!ended.stdout.contains("nothing to do"), "{break_it}");
        assert!(told(&db).await.contains(name), "{break_it}: it is still so");
    }
}

#[tokio::test]
async fn a_replaced_table_leaves_no_trigger_on_the_old_one() {
    let db = migrated().await;
    let client = db.client().await;
    run(
        &client,
        "alter table agent_messages rename to agent_messages_old;
                  create table agent_messages (like agent_messages_old including all)",
    )
    .await;
    migrate(&db.target()).await.expect("migrate");
    run(&client, "insert into agent_messages_old (from_agent_id, to_agent_id, message_type, payload) values ('s', 'a', 'data', '1')").await;
    assert_eq!(number(&client, "select count(*) from postbell.deliveries").await, 0);
    run(&client, "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ('s', 'a', 'data', '1')").await;
    assert_eq!(number(&client, "select count(*) from postbell.deliveries").await, 1);
}
