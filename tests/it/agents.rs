//! Agents and their tokens.

use std::time::Duration;

use postbell::store::agents::{
    AgentRow, Denial, NewAgent, RoleLimits, add, authenticate, list, remove, rotate, set_enabled,
};

use crate::harness::{EXISTING_MESH, command, fresh, migrated, number, roles, text};
use postbell::store::migrate::migrate;

fn agent(agent_id: &str) -> NewAgent<'_> {
    NewAgent { agent_id, ..NewAgent::default() }
}

#[tokio::test]
async fn a_token_lets_in_its_agent_alone() {
    let db = migrated().await;
    let pool = db.pool();
    let new = NewAgent { environment: Some("railway"), role: Some("orchestrator"), ..agent("one") };
    let one = add(&pool, &new).await.expect("one");
    let two = add(&pool, &agent("two")).await.expect("two");
    assert!(one.is_new && one.enabled);

    let clock = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint";
    let sql = db.client().await;
    let before = number(&sql, clock).await;
    let found = authenticate(&pool, "one", one.token.reveal()).await.expect("answer").expect("right");
    assert!((before..=number(&sql, clock).await).contains(&found.rank.0), "{:?}", found.rank);
    let limits = RoleLimits {
        sends_per_second: Some(20_000),
        sends_burst: Some(40_000),
        send_bytes_per_second: Some(32 << 20),
        send_bytes_burst: Some(64 << 20),
        publishes_outstanding: Some(4_096),
        connections: Some(256),
        hold_seconds: Some(21_600),
        locks_held: Some(1_000),
        locks_done: Some(10_000),
        subscriptions: Some(100),
        requests_per_second: Some(200),
        requests_burst: Some(1_000),
    };
    let (agent_id, role, environment) = ("one".into(), "orchestrator".into(), "railway".into());
    assert_eq!(found, AgentRow { agent_id, role, environment, limits, rank: found.rank });
    for (name, token, why) in [
        ("one", two.token.reveal(), Denial::WrongToken),
        ("one", "", Denial::WrongToken),
        ("one", &one.token.reveal()[..45], Denial::WrongToken),
        ("nobody", one.token.reveal(), Denial::UnknownAgent),
        ("", one.token.reveal(), Denial::UnknownAgent),
        ("one\0", one.token.reveal(), Denial::UnknownAgent),
        ("*", one.token.reveal(), Denial::UnknownAgent),
    ] {
        assert_eq!(authenticate(&pool, name, token).await.expect("answer"), Err(why), "{name:?}");
    }
    // Only the hash is kept; the token is there in no other form either.
    let stored = text(&db.client().await, "select string_agg(r::text, '') from agent_registry r").await;
    assert!(!stored.contains(&one.token.reveal()[3..]));
}

#[tokio::test]
async fn a_rotated_or_disabled_agents_old_token_is_void() {
    let db = migrated().await;
    let pool = db.pool();
    let old = add(&pool, &agent("a")).await.expect("add").token;
    let new = rotate(&pool, "a", Duration::ZERO).await.expect("rotate");
    assert_eq!(authenticate(&pool, "a", old.reveal()).await.expect("answer"), Err(Denial::WrongToken));
    assert!(authenticate(&pool, "a", new.reveal()).await.expect("answer").is_ok());

    assert!(set_enabled(&pool, "a", false).await.expect("disable"));
    assert_eq!(authenticate(&pool, "a", new.reveal()).await.expect("answer"), Err(Denial::Disabled));
    assert_eq!(authenticate(&pool, "a", old.reveal()).await.expect("answer"), Err(Denial::WrongToken));
    let client = db.client().await;
    client
        .batch("insert into agent_messages (from_agent_id, message_type, payload) values ('x', 'data', '{}')")
        .await
        .expect("broadcast");
    assert_eq!(number(&client, "select count(*) from postbell.deliveries").await, 0, "passed over");
    assert!(!set_enabled(&pool, "a", true).await.expect("enable"));
    assert!(authenticate(&pool, "a", new.reveal()).await.expect("answer").is_ok());

    for error in [
        rotate(&pool, "nobody", Duration::ZERO).await.expect_err("unknown"),
        set_enabled(&pool, "nobody", true).await.expect_err("unknown"),
        remove(&pool, "nobody", true).await.expect_err("unknown"),
    ] {
        assert_eq!(
            error.to_string(),
            "no agent nobody is registered: `postbell agent list` shows those that are"
        );
    }
}

#[tokio::test]
async fn an_agent_of_an_adopted_mesh_gets_its_first_token_and_stays_as_it_is() {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    migrate(&db.target()).await.expect("migrate");
    let pool = db.pool();
    let answer = authenticate(&pool, "validation-agent", "").await.expect("answer");
    assert_eq!(answer, Err(Denial::NoToken));
    let new = NewAgent { environment: Some("pc"), ..agent("validation-agent") };
    let added = add(&pool, &new).await.expect("add");
    assert!(!added.is_new);
    assert_eq!((added.environment.as_str(), added.role.as_str()), ("railway", "agent"));
    assert!(authenticate(&pool, "validation-agent", added.token.reveal()).await.expect("answer").is_ok());
    let again = add(&pool, &new).await.expect_err("has one").to_string();
    assert!(again.contains("postbell agent rotate validation-agent"), "{again}");

    let agents = list(&pool).await.expect("list");
    let found = agents.iter().find(|a| a.agent_id == "validation-agent").expect("listed");
    assert!(found.has_token && found.waiting > 100 && found.status == "offline");
    assert_eq!(agents.len(), 5);
}

#[tokio::test]
async fn removing_never_deletes_what_waits() {
    let db = migrated().await;
    let (pool, client) = (db.pool(), db.client().await);
    add(&pool, &agent("a")).await.expect("add");
    client
        .batch(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, deliver_at)
             values ('x', 'a', 'data', '{}', null), ('x', 'a', 'data', '{}', now() + interval '1 h')",
        )
        .await
        .expect("send");
    let refused = remove(&pool, "a", false).await.expect_err("something waits").to_string();
    assert!(refused.starts_with("2 deliveries wait for a") && refused.contains("--force"), "{refused}");
    assert_eq!(remove(&pool, "a", true).await.expect("forced"), 2);
    assert_eq!(number(&client, "select count(*) from postbell.deliveries").await, 2);
    assert!(list(&pool).await.expect("list").is_empty());
    add(&pool, &agent("a")).await.expect("the name is free again");
}

#[tokio::test]
async fn the_command_prints_the_token_alone_and_names_bad_ones() {
    let db = migrated().await;
    let added = command(&db, &["agent", "add", "a", "--environment", "github"]).await;
    assert_eq!(added.status, 0, "{}", added.stderr);
    let token = added.stdout.trim();
    assert!(token.starts_with("pb_") && token.len() == 46 && !added.stderr.contains(token));
    assert!(authenticate(&db.pool(), "a", token).await.expect("answer").is_ok());

    let bad = command(&db, &["agent", "add", "a\tb"]).await;
    assert_eq!(bad.status, 1);
    assert!(bad.stderr.contains("control characters"), "{}", bad.stderr);
    assert_eq!(command(&db, &["agent", "add"]).await.status, 64);

    let listed: serde_json::Value =
        serde_json::from_str(&command(&db, &["agent", "list", "--json"]).await.stdout).expect("JSON");
    assert_eq!(listed[0]["agent_id"], "a");
    assert_eq!(listed[0]["environment"], "github");
    let table = command(&db, &["agent", "list"]).await.stdout;
    assert!(table.starts_with("AGENT  ENVIRONMENT  ROLE"), "{table}");
}
