//! `postbell group` and `postbell lock`, as processes: their output, and the effect on a connected agent.

use serde_json::{Value, json};

use crate::harness::command;
use crate::mesh::{Mesh, Raw, insert};

/// Runs the command, which must succeed, and returns its output.
async fn done(mesh: &Mesh, args: &[&str]) -> String {
    let ended = command(&mesh.db, args).await;
    assert_eq!(ended.status, 0, "{args:?}: {}", ended.stderr);
    ended.stdout
}

async fn listed(mesh: &Mesh, kind: &str) -> Value {
    serde_json::from_str(&done(mesh, &[kind, "list", "--json"]).await).expect("JSON")
}

async fn take(mesh: &Mesh, agent: &str, token: &str) -> Raw {
    let mut raw = Raw::open(mesh.agents).await;
    raw.say(&format!(r#"{{"op":"hello","agent":"{agent}","token":"{token}","group":"g","window":5}}"#)).await;
    raw
}

#[tokio::test]
async fn an_agent_takes_from_a_group_for_as_long_as_it_is_allowed() {
    let mesh = Mesh::start().await;
    let (a, b) = (mesh.db.agent("a").await, mesh.db.agent("b").await);
    assert_eq!(listed(&mesh, "group").await, json!([]));
    assert_eq!(done(&mesh, &["group", "allow", "g", "a"]).await, "a is allowed the group g\n");
    done(&mesh, &["group", "allow", "g", "b"]).await;
    // Allowing twice is no fault.
    done(&mesh, &["group", "allow", "g", "b"]).await;
    let both = json!([{"name": "g", "agent": "a"}, {"name": "g", "agent": "b"}]);
    assert_eq!(listed(&mesh, "group").await, both);
    let table = done(&mesh, &["group", "list"]).await;
    let words: Vec<_> = table.split_whitespace().collect();
    assert_eq!(words, ["NAME", "AGENT", "g", "a", "g", "b"]);
    assert_eq!(listed(&mesh, "lock").await, json!([]), "a lock of that name is something else");

    let (mut of_a, mut of_b) = (take(&mesh, "a", &a).await, take(&mesh, "b", &b).await);
    of_a.expect("welcome").await;
    of_b.expect("welcome").await;
    assert_eq!(done(&mesh, &["group", "revoke", "g", "b"]).await, "1 revoked of the group g\n");
    of_b.expect_error("role_changed", true).await;
    take(&mesh, "b", &b).await.expect_error("forbidden", true).await;
    // The other agent keeps its session, and gets the next message.
    let to_group = "insert into agent_messages (from_agent_id, to_group, message_type, payload)
                    values ('sql', 'g', 'data', '\"for a\"')";
    mesh.db.sql().await.batch_execute(to_group).await.expect("sent");
    assert_eq!(of_a.expect("msg").await["payload"], "for a");
    of_a.say(r#"{"op":"ack","tag":1,"ref":"r"}"#).await;
    of_a.expect("acked").await;
    // Permissions do not concern an agent's own inbox.
    let mut own = mesh.raw_with("b", &b, 5).await;
    insert(&mesh.db.sql().await, "b", 5, "1").await;
    own.expect("msg").await;

    let last = done(&mesh, &["group", "revoke", "g", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&last).expect("JSON"), json!({"group": "g", "revoked": 1}));
    take(&mesh, "b", &b).await.expect("welcome").await;
    assert_eq!(done(&mesh, &["group", "revoke", "g"]).await, "0 revoked of the group g\n");
    mesh.stop().await;
}

#[tokio::test]
async fn an_agent_holds_a_lock_for_as_long_as_it_is_allowed() {
    let mesh = Mesh::start().await;
    let (mut a, mut b) = (mesh.raw("a", 0).await, mesh.raw("b", 0).await);
    let acquire = r#"{"op":"acquire","ref":"r","key":"daily-1","ttl_ms":60000}"#;
    assert_eq!(done(&mesh, &["lock", "allow", "daily-*", "a"]).await, "a is allowed the lock daily-*\n");
    b.say(acquire).await;
    let refused = b.expect_error("forbidden", false).await;
    assert!(refused["message"].as_str().expect("a sentence").contains("postbell lock allow daily-1 b"));
    a.say(acquire).await;
    let held = a.expect("lock").await;
    assert_eq!(held["held"], true);
    // The command that the refusal names is enough.
    done(&mesh, &["lock", "allow", "daily-1", "b"]).await;
    let all = json!([{"name": "daily-*", "agent": "a"}, {"name": "daily-1", "agent": "b"}]);
    assert_eq!(listed(&mesh, "lock").await, all);
    b.say(acquire).await;
    assert_eq!(b.expect("lock").await["held"], false, "a has it");

    assert_eq!(done(&mesh, &["lock", "revoke", "daily-*", "a"]).await, "1 revoked of the lock daily-*\n");
    // The agent may neither renew the lock nor take it anew; it may give back the lock that it has.
    let renew =
        format!(r#"{{"op":"acquire","ref":"r","key":"daily-1","ttl_ms":60000,"fence":{}}}"#, held["fence"]);
    for line in [renew.as_str(), acquire] {
        a.say(line).await;
        a.expect_error("forbidden", false).await;
    }
    a.say(&format!(r#"{{"op":"release","ref":"r","key":"daily-1","fence":{}}}"#, held["fence"])).await;
    a.expect("released").await;
    b.say(acquire).await;
    assert_eq!(b.expect("lock").await["held"], true);
    done(&mesh, &["lock", "revoke", "daily-1"]).await;
    assert_eq!(listed(&mesh, "lock").await, json!([]));
    a.say(r#"{"op":"acquire","ref":"r","key":"daily-2","ttl_ms":60000}"#).await;
    assert_eq!(a.expect("lock").await["held"], true, "open to all again");
    mesh.stop().await;
}
