//! `postbell policies` as it is typed.

use postbell::devdb::{Data, DevPostgres, Options};

use super::{GRANTED, PAYLOADS, ROLES, as_agent, try_as};
use crate::harness::{TestDb, command, fresh, migrated, roles};

#[tokio::test]
async fn roles_that_are_missing_are_named_and_made_only_when_asked() {
    // Roles belong to the whole server, and the other tests' server has them already.
    let options = Options {
        data: Data::Temporary,
        bin_dir: std::env::var_os("POSTBELL_TEST_PG").map(Into::into),
        settings: Vec::new(),
        environment: Vec::new(),
    };
    let server = tokio::task::spawn_blocking(|| DevPostgres::start(options))
        .await
        .unwrap()
        .expect("a private Postgres");
    let db = TestDb::at(server.url_for("postgres"));
    assert_eq!(command(&db, &["migrate"]).await.status, 0);
    let refused = command(&db, &["policies", "apply"]).await;
    assert_eq!(refused.status, 1);
    assert!(
        refused.stderr.contains("has no role anon, authenticated, service_role, so nothing was applied"),
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("--create-roles"), "{}", refused.stderr);
    assert_eq!(db.ask::<i64>("select count(*) from pg_policy").await, 0);
    let done = command(&db, &["policies", "apply", "--create-roles"]).await;
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert!(done.stdout.contains("created anon, authenticated, service_role"), "{}", done.stdout);
    assert!(
        db.ask::<bool>(
            "select rolbypassrls and not rolcanlogin from pg_roles where rolname = 'service_role'"
        )
        .await
    );
    assert_eq!(command(&db, &["policies", "apply"]).await.status, 0);
    drop(db);
    tokio::task::spawn_blocking(|| drop(server)).await.unwrap();
}

#[tokio::test]
async fn what_was_done_is_said_and_a_database_without_the_schema_is_refused() {
    let db = fresh().await;
    let refused = command(&db, &["policies", "apply"]).await;
    assert_eq!((refused.status, refused.stdout.as_str()), (1, ""));
    assert!(refused.stderr.contains("run `postbell migrate`"), "{}", refused.stderr);

    let db = migrated().await;
    roles(&db.client().await, ROLES).await;
    let done = command(&db, &["policies", "apply"]).await;
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert_eq!(done.stdout.lines().count(), 6, "{}", done.stdout);
    assert!(done.stdout.starts_with("applied claims: policies know the agent of"), "{}", done.stdout);
    let json = command(&db, &["policies", "apply", "--json"]).await.stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["applied"]["files"][5], "closed");
    assert_eq!(json["open"], serde_json::json!([]));
}

/// Only the role that granted a right can revoke it.
#[tokio::test]
async fn what_stays_open_is_said() {
    let db = migrated().await;
    let client = db.client().await;
    roles(&client, ROLES).await;
    let granted = "do $$ begin if to_regrole('granter') is null then create role granter; end if; end $$";
    roles(&client, granted).await;
    client
        .batch(
            "grant truncate on agent_messages to granter with grant option; grant usage on schema public to granter;
             set role granter; grant truncate on agent_messages to anon; reset role",
        )
        .await
        .expect("granted by another");
    let done = command(&db, &["policies", "apply"]).await;
    assert!(done.stdout.contains("still open: anon may TRUNCATE agent_messages"), "{}", done.stdout);
}

#[tokio::test]
async fn the_sql_that_is_shown_does_the_same_by_hand() {
    let db = migrated().await;
    let client = db.client().await;
    roles(&client, ROLES).await;
    client.batch(GRANTED).await.expect("as on Supabase");
    client.batch(super::AGENTS).await.expect("agents");
    let shown = command(&db, &["policies", "show"]).await;
    assert_eq!(shown.status, 0);
    client.batch(&shown.stdout).await.expect("psql would take it");
    assert_eq!(as_agent(&db, "a", PAYLOADS).await.map(|rows| rows.len()), Ok(4));
    assert_eq!(try_as(&db, "anon", "", PAYLOADS).await, super::DENIED);
}
