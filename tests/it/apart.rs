//! Agents against each other: nothing that one sends, holds, takes or dies of costs another.

use std::time::{Duration, Instant};

use postbell::store::grants::{self, Grant, Kind};
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::migrated;
use crate::mesh::{Mesh, Raw, insert};

/// The longest that an agent may wait because of another's doing.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

async fn ack(raw: &mut Raw, msg: &Value) {
    raw.say(&format!(r#"{{"op":"ack","tag":{}}}"#, msg["tag"])).await;
}

#[tokio::test]
async fn a_flood_for_a_process_that_is_gone_starves_no_priority_and_no_answer() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    let flood = "insert into agent_messages (from_agent_id, to_agent_id, to_instance, message_type, payload, priority)
                 select 'h', 'v', 'gone', 'data', to_jsonb(n), 9 from generate_series(1, 3000) n";
    sql.batch_execute(flood).await.expect("the flood");
    let token = mesh.db.agent("v").await;
    let mut raw = Raw::open(mesh.agents).await;
    raw.say(&format!(r#"{{"op":"hello","agent":"v","token":"{token}","instance":"here","window":1}}"#)).await;
    raw.expect("welcome").await;
    let first = raw.expect("msg").await;
    insert(&sql, "v", 1, "\"urgent\"").await;
    let answer = "insert into agent_messages (from_agent_id, to_agent_id, to_instance, message_type, payload)
                  values ('b', 'v', 'here', 'response', '\"answer\"')";
    sql.batch_execute(answer).await.expect("the answer");
    // The answer passes the flood and a full window. The urgent message is the next, but for a turn of the oldest.
    let second = raw.expect("msg").await;
    assert_eq!(second["payload"], "answer", "{second}");
    ack(&mut raw, &first).await;
    let mut seen = Vec::new();
    while !seen.contains(&Value::from("urgent")) {
        let msg = raw.expect("msg").await;
        seen.push(msg["payload"].clone());
        assert!(seen.len() < 4, "{seen:?}");
        ack(&mut raw, &msg).await;
    }
}

/// Many messages of one key, whose first fails; then one of another key and one without. Passing over costs by the
/// row: a million rows cost five times this.
#[tokio::test]
async fn a_blocked_key_is_passed_over_whatever_its_length() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    let blocked =
        "insert into agent_messages (from_agent_id, to_agent_id, ordering_key, message_type, payload)
                   select 'h', 'v', 'blocked', 'data', to_jsonb(n) from generate_series(1, 200000) n";
    sql.batch_execute(blocked).await.expect("the backlog");
    let others =
        "insert into agent_messages (from_agent_id, to_agent_id, ordering_key, message_type, payload)
                  values ('u', 'v', 'other', 'data', '\"other\"'), ('u', 'v', null, 'data', '\"none\"')";
    sql.batch_execute(others).await.expect("the others");
    sql.batch_execute("analyze").await.expect("statistics");
    let mut raw = mesh.raw("v", 10).await;
    let first = raw.expect("msg").await;
    assert_eq!(first["payload"], 1);
    raw.say(&format!(r#"{{"op":"nack","tag":{},"outcome":"fail","delay_ms":3600000}}"#, first["tag"])).await;
    let since = Instant::now();
    for wanted in ["other", "none"] {
        let msg = raw.expect("msg").await;
        assert_eq!(msg["payload"], wanted);
        ack(&mut raw, &msg).await;
    }
    assert!(since.elapsed() < SERVED_WITHIN, "{:?}", since.elapsed());
    // A message that comes now is served as if the million were not there.
    insert(&sql, "v", 5, "\"later\"").await;
    assert_eq!(raw.expect("msg").await["payload"], "later");
}

/// Ten thousand keys, each with its first message failed and another behind it.
#[tokio::test]
async fn many_blocked_keys_stop_no_other_and_each_goes_on_in_its_order() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    let keys = 3_000;
    let blocked = format!(
        "insert into agent_messages (from_agent_id, to_agent_id, ordering_key, message_type, payload)
         select 'h', 'v', 'k' || n % {keys}, 'data', to_jsonb(n) from generate_series(0, 3 * {keys} - 1) n"
    );
    sql.batch_execute(&blocked).await.expect("the backlog");
    insert(&sql, "v", 5, "\"last\"").await;
    let mut raw = mesh.raw("v", 100).await;
    let mut failed = 0;
    loop {
        let msg = raw.expect("msg").await;
        if msg["payload"] == "last" {
            ack(&mut raw, &msg).await;
            break;
        }
        assert_eq!(msg["attempt"], 1, "{msg}");
        assert!(msg["payload"].as_i64().unwrap() < keys, "only the first of a key: {msg}");
        raw.say(&format!(r#"{{"op":"nack","tag":{},"outcome":"fail","delay_ms":15000}}"#, msg["tag"])).await;
        failed += 1;
    }
    assert_eq!(failed, keys);
    let mut last = vec![-1; keys as usize];
    for _ in 0..3 * keys {
        let msg = raw.expect("msg").await;
        let n = msg["payload"].as_i64().unwrap();
        let of = &mut last[(n % keys) as usize];
        assert!(*of < n, "{n} after {of}");
        *of = n;
        ack(&mut raw, &msg).await;
    }
    mesh.db.until("select not exists (select from postbell.deliveries)").await;
}

/// The agent connects and is killed with the messages it has in hand, as often as it takes, until the last attempt.
#[tokio::test]
async fn a_message_that_kills_its_agent_takes_no_other_with_it() {
    let mesh = Mesh::with(&[("POSTBELL_MAX_ATTEMPTS", "4")]).await;
    let sql = mesh.db.sql().await;
    for n in 1..=32 {
        insert(&sql, "v", 5, &n.to_string()).await;
    }
    let token = mesh.db.agent("v").await;
    for attempt in 1..=4 {
        let mut raw = mesh.raw_with("v", &token, 32).await;
        for n in 1..=32 {
            let msg = raw.expect("msg").await;
            assert_eq!(
                (&msg["payload"], &msg["attempt"]),
                (&n.into(), &(if n == 1 { attempt } else { 1 }).into())
            );
        }
    }
    mesh.db.until("select count(*) = 1 from postbell.deliveries where state = 'dead' and attempt = 4").await;
    let innocent = "select count(*) from postbell.deliveries where state = 'ready' and attempt = 0";
    assert_eq!(mesh.db.ask::<i64>(innocent).await, 31);
}

/// An agent that handles several at once, one of which kills it each time.
#[tokio::test]
async fn of_several_at_once_the_one_that_kills_is_found() {
    let mesh = Mesh::with(&[("POSTBELL_MAX_ATTEMPTS", "3")]).await;
    let sql = mesh.db.sql().await;
    for n in 1..=12 {
        insert(&sql, "v", 5, &n.to_string()).await;
    }
    let token = mesh.db.agent("v").await;
    let over = "select count(*) = 11 from agent_messages where status = 'processed'";
    let mut lives = 0;
    while !mesh.db.ask::<bool>(over).await {
        lives += 1;
        assert!(lives < 40, "it dies for ever");
        let mut raw = mesh.raw_with("v", &token, 4).await;
        // The agent handles up to four at once; the sixth message kills it.
        loop {
            let mut batch = Vec::new();
            while batch.len() < 4 {
                match timeout(Duration::from_millis(300), raw.line()).await {
                    Ok(Some(line)) if line.contains(r#""op":"msg""#) => {
                        batch.push(serde_json::from_str::<Value>(&line).expect("JSON"));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => break,
                }
            }
            let tags: Vec<String> = batch.iter().map(|msg| msg["tag"].to_string()).collect();
            if tags.is_empty() {
                break;
            }
            let tags = tags.join(",");
            raw.say(&format!(r#"{{"op":"begun","tags":[{tags}]}}"#)).await;
            if batch.iter().any(|msg| msg["payload"] == 6) {
                break;
            }
            raw.say(&format!(r#"{{"op":"ack","tags":[{tags}]}}"#)).await;
        }
    }
    mesh.db.until("select count(*) = 1 from postbell.deliveries where state = 'dead'").await;
    assert_eq!(
        mesh.db.ask::<String>("select payload::text from agent_messages where status = 'failed'").await,
        "6"
    );
}

#[tokio::test]
async fn what_was_begun_is_said_over_a_link_as_well() {
    let db = migrated().await;
    let (one, two) = (Mesh::on(db.clone(), &[]).await, Mesh::on(db, &[]).await);
    let token = one.db.agent("v").await;
    let _near = one.raw_with("v", &token, 0).await;
    one.db.until("select count(*) = 1 from postbell.leases where inbox = 'v'").await;
    let mut far = two.raw_with("v", &token, 2).await;
    let sql = one.db.sql().await;
    for payload in ["1", "2"] {
        insert(&sql, "v", 5, payload).await;
    }
    for _ in 0..2 {
        far.expect("msg").await;
    }
    far.say(r#"{"op":"begun","tag":2}"#).await;
    far.say(r#"{"op":"ping"}"#).await;
    far.expect("pong").await;
    drop(far);
    let mut again = one.raw_with("v", &token, 2).await;
    let mut attempts: Vec<_> = Vec::new();
    for _ in 0..2 {
        let msg = again.expect("msg").await;
        attempts.push((msg["payload"].as_i64().unwrap(), msg["attempt"].as_i64().unwrap()));
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [(1, 1), (2, 2)]);
}

async fn hello_to_group(mesh: &Mesh, agent: &str, token: &str) -> Raw {
    let mut raw = Raw::open(mesh.agents).await;
    raw.say(&format!(r#"{{"op":"hello","agent":"{agent}","token":"{token}","group":"g","window":5}}"#)).await;
    raw
}

fn grant(name: &str, agent: &str) -> Grant {
    Grant { name: name.to_owned(), agent: agent.to_owned() }
}

#[tokio::test]
async fn a_group_is_open_until_somebody_is_allowed_and_then_theirs() {
    let mesh = Mesh::start().await;
    let (a, b) = (mesh.db.agent("a").await, mesh.db.agent("b").await);
    let mut early = hello_to_group(&mesh, "b", &b).await;
    early.expect("welcome").await;
    let pool = mesh.db.pool();
    grants::allow(&pool, Kind::Group, &grant("g", "a")).await.expect("allowed");
    early.expect_error("role_changed", true).await;
    hello_to_group(&mesh, "b", &b).await.expect_error("forbidden", true).await;
    hello_to_group(&mesh, "a", &a).await.expect("welcome").await;
    assert_eq!(grants::list(&pool, Kind::Group).await.expect("listed").len(), 1);
    assert_eq!(grants::revoke(&pool, Kind::Group, "g", None).await.expect("revoked"), 1);
    hello_to_group(&mesh, "b", &b).await.expect("welcome").await;
    let closed = "update postbell.role_limits set may_take_groups = false";
    mesh.db.sql().await.batch_execute(closed).await.expect("closed");
    hello_to_group(&mesh, "b", &b).await.expect_error("forbidden", true).await;
    grants::allow(&pool, Kind::Group, &grant("g*", "b")).await.expect("allowed");
    hello_to_group(&mesh, "b", &b).await.expect("welcome").await;
}

#[tokio::test]
async fn nobody_holds_a_delivery_for_longer_than_its_role_allows() {
    let mesh = Mesh::with(&[("POSTBELL_ACK_DEADLINE_SECONDS", "1")]).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute("update postbell.role_limits set hold_seconds = 2").await.expect("bounded");
    let mut raw = mesh.raw("v", 1).await;
    insert(&sql, "v", 5, "1").await;
    assert_eq!(raw.expect("msg").await["attempt"], 1);
    raw.say(r#"{"op":"extend","tag":1,"ms":604800000}"#).await;
    mesh.db.until("select attempt = 1 from postbell.deliveries").await;
}

#[tokio::test]
async fn locks_are_bounded_and_are_whose_they_are_said_to_be() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    let limits = "update postbell.role_limits set locks_held = 2, locks_done = 1, subscriptions = 1,
                         requests_per_second = 1, requests_burst = 9";
    sql.batch_execute(limits).await.expect("bounded");
    let mut raw = mesh.raw("a", 0).await;
    let acquire = |key: &str| format!(r#"{{"op":"acquire","ref":"r","key":"{key}","ttl_ms":60000}}"#);
    let mut fences = Vec::new();
    for key in ["one", "two"] {
        raw.say(&acquire(key)).await;
        let lock = raw.expect("lock").await;
        fences.push(lock["fence"].as_i64().expect("held"));
    }
    raw.say(&acquire("three")).await;
    raw.expect_error("forbidden", false).await;
    let done =
        |key: &str, fence: i64| format!(r#"{{"op":"release","key":"{key}","fence":{fence},"done":true}}"#);
    raw.say(&done("never", fences[0])).await;
    raw.expect_error("rejected", false).await;
    raw.say(&done("one", fences[0])).await;
    raw.expect("released").await;
    raw.say(&done("two", fences[1])).await;
    raw.expect_error("forbidden", false).await;
    grants::allow(&mesh.db.pool(), Kind::Lock, &grant("daily-*", "b")).await.expect("allowed");
    raw.say(&acquire("daily-1")).await;
    let refused = raw.expect_error("forbidden", false).await;
    assert!(refused["message"].as_str().unwrap().contains("postbell lock allow daily-1 a"), "{refused}");
    for (topic, op) in [("x", "subscribed"), ("y", "error")] {
        raw.say(&format!(r#"{{"op":"subscribe","topic":"{topic}"}}"#)).await;
        raw.expect(op).await;
    }
    for _ in 0..20 {
        raw.say(&acquire("two")).await;
    }
    while raw.line().await.expect("an answer").contains(r#""op":"lock""#) {}
    raw.say(r#"{"op":"ping"}"#).await;
}

#[tokio::test]
async fn no_message_to_an_agent_lands_in_a_groups_inbox() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    let to = |name: &str| {
        format!(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             values ('x', '{name}', 'data', '1')"
        )
    };
    let refused = sql.batch_execute(&to("group:g")).await.expect_err("refused");
    let refused = refused.as_db_error().expect("the database's");
    assert!(
        refused.message().contains("group:g") && refused.hint().unwrap().contains("to_group"),
        "{refused:?}"
    );
    let mut raw = mesh.raw("a", 0).await;
    raw.say(r#"{"op":"send","ref":"s","to":"group:g","type":"data","payload":1}"#).await;
    raw.expect_error("bad_field", false).await;
    // An adopted mesh may have agents of such names, which take by SQL.
    sql.batch_execute(
        "insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
         values ('group:g', 'g', 'poller', 'pc', 'offline')",
    )
    .await
    .expect("registered");
    sql.batch_execute(&to("group:g")).await.expect("taken");
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, message_type, payload) values ('x', 'data', '\"all\"')",
    )
    .await
    .expect("to all");
    assert_eq!(
        mesh.db.ask::<i64>("select count(*) from postbell.deliveries where inbox = 'group:g'").await,
        0
    );
}

/// The column may hold anything: the insert costs no more than its index can hold.
#[tokio::test]
async fn a_key_of_any_length_is_a_key() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    let long = "insert into agent_messages (from_agent_id, to_agent_id, ordering_key, message_type, payload)
                select 'h', 'v', repeat('k', 1000000), 'data', to_jsonb(n) from generate_series(1, 2) n";
    sql.batch_execute(long).await.expect("taken");
    insert(&sql, "v", 5, "3").await;
    let mut raw = mesh.raw("v", 5).await;
    let first = raw.expect("msg").await;
    assert_eq!((&first["payload"], &raw.expect("msg").await["payload"]), (&1.into(), &3.into()));
    ack(&mut raw, &first).await;
    assert_eq!(raw.expect("msg").await["payload"], 2);
}
