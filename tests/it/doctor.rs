//! `postbell doctor`, on healthy and on sick databases.

use postbell::store::doctor::{Check, Level, examine};
use postbell::store::migrate::migrate;
use postbell::store::{DatabaseUrl, Target};

use crate::harness::{EXISTING_MESH, command, fresh, migrated, roles};

/// The checks of that name: their levels, and their sentences as one text.
fn of(checks: &[Check], name: &str) -> (Vec<Level>, String) {
    let found: Vec<_> = checks.iter().filter(|c| c.check == name).collect();
    assert!(!found.is_empty(), "no check {name} in {checks:?}");
    let text = found.iter().map(|c| c.sentence.as_str()).collect::<Vec<_>>().join("\n");
    (found.iter().map(|c| c.level).collect(), text)
}

#[tokio::test]
async fn a_migrated_database_passes() {
    let db = migrated().await;
    let checks = examine(&db.target()).await;
    assert!(checks.iter().all(|c| c.level != Level::Fail), "{checks:?}");
    for name in [
        "reachable",
        "tls",
        "version",
        "notify queue",
        "listen",
        "clock",
        "schema",
        "triggers",
        "rights",
        "indexes",
        "policies",
        "api roles",
        "brokers",
        "recipients",
    ] {
        assert_eq!(of(&checks, name).0, [Level::Ok], "{name}");
    }
    assert!(of(&checks, "listen").1.contains(" ms, directly"));
    assert!(of(&checks, "agents").1.contains("postbell agent add NAME"));

    let said = command(&db, &["doctor"]).await;
    assert_eq!(said.status, 0, "{}", said.stderr);
    assert!(said.stdout.starts_with("✓ reachable        connected to "), "{}", said.stdout);
    assert!(!said.stdout.contains('\x1b'), "no colour where nobody looks");
}

#[tokio::test]
async fn an_empty_database_names_the_command() {
    let db = fresh().await;
    let said = command(&db, &["doctor", "--json"]).await;
    assert_eq!(said.status, 1);
    let checks: Vec<serde_json::Value> = serde_json::from_str(&said.stdout).expect("JSON");
    let schema = checks.iter().find(|c| c["check"] == "schema").expect("schema");
    assert_eq!(schema["level"], "fail");
    assert!(schema["sentence"].as_str().is_some_and(|s| s.contains("run `postbell migrate`")));
    assert_eq!(checks.iter().filter(|c| c["level"] == "fail").count(), 1, "{checks:?}");
}

#[tokio::test]
async fn an_adopted_mesh_is_told_what_makes_it_slow_and_open() {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    migrate(&db.target()).await.expect("migrate");
    client
        .batch(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             values ('x', 'misspelt', 'data', '{}'), ('x', 'misspelt', 'data', '{}')",
        )
        .await
        .expect("send");
    let checks = examine(&db.target()).await;
    let (level, text) = of(&checks, "indexes");
    assert_eq!(level, [Level::Warn]);
    for index in ["to_agent_id_status_idx", "agent_messages_status_idx", "priority_created_at_idx"] {
        assert!(text.contains(index), "{text}");
    }
    assert!(!text.contains("agent_messages_created_at_idx"), "{text}");
    let (level, text) = of(&checks, "policies");
    // Two tables are open by a policy, the other two for want of row level security.
    assert_eq!(level, [Level::Warn; 4]);
    assert!(
        text.contains("policy \"service role\" lets authenticated read every row of agent_messages"),
        "{text}"
    );
    let (_, text) = of(&checks, "agents");
    assert!(text.contains("5 of 5 have no token") && text.contains("validation-agent"), "{text}");
    let (level, text) = of(&checks, "recipients");
    assert_eq!(level, [Level::Warn]);
    assert!(text.contains("misspelt (2)"), "{text}");

    client
        .batch(
            "alter policy \"service role\" on agent_messages to service_role;
             alter table agent_registry disable row level security;
             alter table agent_alerts enable row level security; alter table agent_metrics enable row level security",
        )
        .await
        .expect("one closed, one opened");
    let (level, text) = of(&examine(&db.target()).await, "policies");
    assert_eq!(level, [Level::Warn], "{text}");
    assert!(text.contains("authenticated may read every row of agent_registry, since row level"), "{text}");
}

#[tokio::test]
async fn a_disabled_trigger_fails() {
    let db = migrated().await;
    db.client()
        .await
        .batch("alter table agent_messages disable trigger postbell_route")
        .await
        .expect("disable");
    let (level, text) = of(&examine(&db.target()).await, "triggers");
    assert_eq!(level, [Level::Fail]);
    assert!(text.contains("postbell_route") && text.contains("`postbell migrate`"), "{text}");
}

#[tokio::test]
async fn a_role_without_rights_is_told_which() {
    let db = migrated().await;
    let client = db.client().await;
    client
        .batch(
            "create role weak login password 'secret' noinherit; grant select on agent_messages to weak;
             grant usage on schema postbell to weak; grant select on all tables in schema postbell to weak",
        )
        .await
        .expect("role");
    let url = db.url().replace(db.url().split('@').next().unwrap_or_default(), "postgres://weak:secret");
    let target = Target::new(DatabaseUrl::parse(&url).expect("url"), "public");
    let checks = examine(&target).await;
    let (level, text) = of(&checks, "rights");
    assert!(level.iter().all(|l| *l == Level::Fail));
    assert!(text.contains("weak lacks insert, update, delete on public.agent_messages"), "{text}");
    assert!(text.contains("weak lacks insert, update, delete on postbell.deliveries"), "{text}");
    assert!(text.contains("weak lacks select, update on sequence postbell.bell"), "{text}");
    assert!(text.contains("weak lacks usage on sequence postbell.epochs"), "{text}");
    assert!(text.contains("`grant execute on function postbell.arm(uuid,boolean) to weak`"), "{text}");

    // Row level security still hides all rows, whatever rights the role has.
    client
        .batch("grant all on agent_messages, agent_registry to weak; grant all on all tables in schema postbell to weak")
        .await
        .expect("grant");
    let (_, text) = of(&examine(&target).await, "rights");
    assert!(text.contains("row level security hides rows of public.agent_messages from weak"), "{text}");
}

#[tokio::test]
async fn an_unreachable_server_ends_the_checks_and_parameters_are_named() {
    // Port 1 is reserved: nothing listens there.
    let url = "postgres://me:s3cret@127.0.0.1:1/d?pgbouncer=true&supa=base-pooler.x";
    let checks = examine(&Target::new(DatabaseUrl::parse(url).expect("url"), "public")).await;
    assert_eq!(checks.len(), 2, "{checks:?}");
    assert!(of(&checks, "url").1.contains("pgbouncer, supa"), "{checks:?}");
    let (level, text) = of(&checks, "reachable");
    assert_eq!(level, [Level::Fail]);
    assert!(text.contains("127.0.0.1:1") && !text.contains("s3cret"), "{text}");
}

#[tokio::test]
async fn sessions_in_which_no_trigger_fires_fail() {
    let db = migrated().await;
    let name = db.url().rsplit('/').next().unwrap_or_default().to_owned();
    let set = format!("alter database {name} set session_replication_role = replica");
    db.client().await.batch(&set).await.expect("set");
    let (level, text) = of(&examine(&db.target()).await, "replication role");
    assert_eq!(level, [Level::Fail]);
    assert!(text.contains("triggers do not fire"), "{text}");
}

#[tokio::test]
async fn a_broker_that_stands_still_is_named_with_its_reason() {
    let db = migrated().await;
    assert_eq!(of(&examine(&db.target()).await, "brokers"), (vec![Level::Ok], "none is running".to_owned()));
    db.client()
        .await
        .batch(
            "insert into postbell.brokers (broker_id, name, address, version, lease_until, standstill) values
               (gen_random_uuid(), 'one', 'x', 'x', now() + interval '1 hour', null),
               (gen_random_uuid(), 'two', 'x', 'x', now() + interval '1 hour', 'Outcomes have not been written.'),
               (gen_random_uuid(), 'gone', 'x', 'x', now() - interval '1 hour', 'New messages have not been read.')",
        )
        .await
        .expect("brokers");
    let (levels, said) = of(&examine(&db.target()).await, "brokers");
    assert_eq!(levels, [Level::Fail]);
    assert_eq!(said, "two stands still: Outcomes have not been written.");
}
