//! Several brokers on one database: inboxes are shared by lease, and a session is served wherever it lands.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faults::proxy::Proxy;
use postbell::broker::Stopped;
use postbell_client::Builder;
use tokio::task::JoinSet;

use crate::harness::{TestDb, migrated};
use crate::mesh::{Mesh, Raw, insert, next};
use crate::process::{Process, kept_port};

/// Two brokers on one database.
async fn two() -> (Mesh, Mesh) {
    let db = migrated().await;
    (Mesh::on(db.clone(), &[]).await, Mesh::on(db, &[]).await)
}

/// The same; the proxy is on the first one's way to the database.
async fn two_and_a_proxy() -> (TestDb, Proxy, Mesh, Mesh) {
    let db = migrated().await;
    let proxy = Proxy::in_turn(Vec::new()).await.expect("a port");
    let one = Mesh::on(db.through(&proxy), &[]).await;
    let two = Mesh::on(db.clone(), &[]).await;
    (db, proxy, one, two)
}

async fn until_owned(db: &TestDb, inbox: &str) {
    db.until(&format!("select exists (select from postbell.leases where inbox = '{inbox}')")).await;
}

#[tokio::test]
async fn a_session_whose_inbox_another_broker_owns_is_served_over_a_link() {
    let (one, two) = two().await;
    let token = one.db.agent("a").await;
    // The agent's session at the owner takes nothing, so everything goes over the link.
    let mut idle = one.raw_with("a", &token, 0).await;
    until_owned(&one.db, "a").await;
    let mut far = two.raw_with("a", &token, 2).await;
    two.until_metric("postbell_links", |n| n == 1.0).await;
    let sql = one.db.sql().await;
    for n in 1..=4 {
        insert(&sql, "a", 5, &n.to_string()).await;
    }
    // The owner keeps the window.
    let (first, second) = (far.expect("msg").await, far.expect("msg").await);
    assert_eq!((&first["tag"], &first["payload"], &first["attempt"]), (&1.into(), &1.into(), &1.into()));
    assert_eq!((&second["tag"], &second["payload"]), (&2.into(), &2.into()));
    far.say(r#"{"op":"ack","tag":1,"ref":"r1"}"#).await;
    let mut answers = [far.line().await.expect("open"), far.line().await.expect("open")];
    answers.sort();
    assert_eq!(answers[0], r#"{"op":"acked","ref":"r1"}"#);
    assert!(answers[1].contains(r#""tag":3"#), "{answers:?}");
    assert_eq!(one.db.ask::<i64>("select count(*) from agent_messages where status = 'processed'").await, 1);
    // Outcomes and deadlines are passed on, and a tag that is nobody's is refused here.
    far.say(r#"{"op":"extend","tag":2,"ms":60000}"#).await;
    far.say(r#"{"op":"nack","tag":2,"outcome":"fail","delay_ms":1,"reason":"locked"}"#).await;
    far.say(r#"{"op":"nack","tag":3,"outcome":"dead","reason":"no such county"}"#).await;
    far.say(r#"{"op":"ack","tags":[3,9],"ref":"r2"}"#).await;
    let mut left = vec!["unknown_tag", "4", "2"];
    while !left.is_empty() {
        let line = far.line().await.expect("open");
        let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let what = if value["op"] == "error" {
            value["code"].as_str().unwrap().to_owned()
        } else {
            value["payload"].to_string()
        };
        assert!(left.contains(&&*what), "{line}");
        left.retain(|w| *w != what);
        if what == "2" {
            assert_eq!(value["attempt"], 2);
        }
    }
    // Outcomes are written kind by kind: the retry may be back before the dead letter is there.
    one.db.until("select count(*) = 1 from postbell.deliveries where dead_at is not null").await;
    assert_eq!(
        one.db.ask::<String>("select last_error from postbell.deliveries where dead_at is not null").await,
        "no such county"
    );
    far.say(r#"{"op":"bye"}"#).await;
    assert_eq!(far.line().await, None);
    two.until_metric("postbell_links", |n| n == 0.0).await;
    idle.say(r#"{"op":"window","n":10}"#).await;
    let mut again =
        [idle.expect("msg").await["payload"].to_string(), idle.expect("msg").await["payload"].to_string()];
    again.sort();
    assert_eq!(again, ["2", "4"], "what the far agent had in flight came back");
}

#[tokio::test]
async fn the_far_agents_disconnect_fails_what_it_was_written_and_a_takeover_crosses_brokers() {
    let (one, two) = two().await;
    let token = one.db.agent("a").await;
    let _idle = one.raw_with("a", &token, 0).await;
    until_owned(&one.db, "a").await;
    let hello = format!(r#"{{"op":"hello","agent":"a","token":"{token}","instance":"main","window":5}}"#);
    let mut far = Raw::open(two.agents).await;
    far.say(&hello).await;
    far.expect("welcome").await;
    insert(&one.db.sql().await, "a", 5, "1").await;
    assert_eq!(far.expect("msg").await["attempt"], 1);
    let mut newer = Raw::open(one.agents).await;
    newer.say(&hello).await;
    newer.expect("welcome").await;
    far.expect_error("taken_over", true).await;
    assert_eq!(newer.expect("msg").await["attempt"], 2, "it may have been handled by half");
}

#[tokio::test]
async fn an_inbox_is_given_to_the_broker_that_has_sessions_for_it_when_the_link_is_cut() {
    let db = migrated().await;
    let proxy = Proxy::in_turn(Vec::new()).await.unwrap();
    let one = Mesh::on(db.clone(), &[("POSTBELL_ADVERTISE", &proxy.address.to_string())]).await;
    proxy.lead_to(vec![one.agents]);
    let two = Mesh::on(db, &[]).await;
    let token = one.db.agent("a").await;
    let near = one.raw_with("a", &token, 0).await;
    until_owned(&one.db, "a").await;
    let mut far = two.raw_with("a", &token, 5).await;
    two.until_metric("postbell_links", |n| n == 1.0).await;
    drop(near);
    one.until_metric("postbell_sessions", |n| n == 1.0).await;
    let sql = one.db.sql().await;
    insert(&sql, "a", 5, "1").await;
    assert_eq!(far.expect("msg").await["tag"], 1);
    proxy.shut();
    insert(&sql, "a", 5, "2").await;
    // The deliveries that were in flight over the link come again, and their old tags are nobody's.
    let (mut seen, mut tags) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let msg = far.expect("msg").await;
        seen.push(msg["payload"].as_u64().unwrap());
        tags.push(msg["tag"].as_u64().unwrap());
    }
    seen.sort_unstable();
    assert_eq!((seen, tags), (vec![1, 2], vec![2, 3]));
    far.say(r#"{"op":"ack","tag":1}"#).await;
    far.expect_error("unknown_tag", false).await;
    far.say(r#"{"op":"ack","tags":[2,3],"ref":"r"}"#).await;
    far.expect("acked").await;
    assert_eq!(two.metric("postbell_links").await, 0.0);
}

#[tokio::test]
async fn an_owner_with_sessions_of_its_own_keeps_the_inbox_and_serves_them() {
    let db = migrated().await;
    let proxy = Proxy::in_turn(Vec::new()).await.unwrap();
    let one = Mesh::on(db.clone(), &[("POSTBELL_ADVERTISE", &proxy.address.to_string())]).await;
    proxy.shut();
    let two = Mesh::on(db, &[]).await;
    let token = one.db.agent("a").await;
    let mut near = one.raw_with("a", &token, 5).await;
    until_owned(&one.db, "a").await;
    let _far = two.raw_with("a", &token, 5).await;
    one.db.until("select wanted_until is not null from postbell.leases").await;
    insert(&one.db.sql().await, "a", 5, "1").await;
    assert_eq!(near.expect("msg").await["payload"], 1);
}

/// One link stands and another cannot be made: the owner learns only from the database that somebody waits.
#[tokio::test]
async fn an_owner_without_sessions_of_its_own_gives_the_inbox_up_when_the_database_says_that_it_is_wanted() {
    let db = migrated().await;
    let proxy = Proxy::in_turn(Vec::new()).await.unwrap();
    let one = Mesh::on(db.clone(), &[("POSTBELL_ADVERTISE", &proxy.address.to_string())]).await;
    proxy.lead_to(vec![one.agents]);
    let two = Mesh::on(db.clone(), &[]).await;
    let token = db.agent("a").await;
    let near = one.raw_with("a", &token, 0).await;
    until_owned(&db, "a").await;
    let owner: String = db.ask("select broker_id::text from postbell.leases").await;
    let _linked = two.raw_with("a", &token, 0).await;
    two.until_metric("postbell_links", |n| n == 1.0).await;
    drop(near);
    one.until_metric("postbell_sessions", |n| n == 1.0).await;
    proxy.refuse();
    let mut far = two.raw_with("a", &token, 5).await;
    db.until(&format!("select exists (select from postbell.leases where broker_id <> '{owner}')")).await;
    insert(&db.sql().await, "a", 5, "1").await;
    assert_eq!(far.expect("msg").await["payload"], 1);
    two.until_metric("postbell_links", |n| n == 0.0).await;
}

/// The owner's way to the database is cut; the other broker's is not.
#[tokio::test]
async fn an_owner_that_loses_the_database_keeps_its_session_and_settles_what_it_holds() {
    let (db, proxy, one, two) = two_and_a_proxy().await;
    let token = db.agent("a").await;
    let mut near = one.raw_with("a", &token, 10).await;
    until_owned(&db, "a").await;
    let owner: String = db.ask("select broker_id::text from postbell.leases").await;
    let sql = db.sql().await;
    for n in 1..=3 {
        insert(&sql, "a", 5, &n.to_string()).await;
    }
    for tag in 1..=3 {
        assert_eq!(near.expect("msg").await["tag"], tag);
    }
    proxy.shut();
    one.until_ready(false).await;
    // The acks come while there is nothing to write them to. Once the lease has ended, nothing more is dispatched.
    near.say(r#"{"op":"ack","tags":[1,2],"ref":"held"}"#).await;
    db.until(&format!("select lease_until < now() from postbell.brokers where broker_id = '{owner}'")).await;
    let mut far = two.raw_with("a", &token, 10).await;
    db.until(&format!("select exists (select from postbell.leases where broker_id <> '{owner}')")).await;
    insert(&sql, "a", 5, "4").await;
    // The new owner cannot know of the acks, so it delivers all that is in the table.
    let mut seen: Vec<u64> = Vec::new();
    while seen.len() < 4 {
        seen.push(far.expect("msg").await["payload"].as_u64().unwrap());
    }
    seen.sort_unstable();
    assert_eq!(seen, [1, 2, 3, 4]);
    proxy.heal();
    // The broker that the agent told settles it, on the session that was never closed. Later acks come too late for
    // these.
    let mut answer = near.line().await.expect("open");
    while !answer.contains("acked") {
        answer = near.line().await.expect("open");
    }
    assert_eq!(answer, r#"{"op":"acked","ref":"held"}"#);
    far.say(r#"{"op":"ack","tags":[1,2,3,4],"ref":"all"}"#).await;
    far.expect("acked").await;
    db.until("select count(*) = 0 from postbell.deliveries").await;
    // From now on the new owner serves the session, or its own broker does again.
    far.say(r#"{"op":"window","n":0}"#).await;
    insert(&sql, "a", 5, "5").await;
    assert_eq!(near.expect("msg").await["payload"], 5);
}

#[tokio::test]
async fn a_failure_that_is_written_after_the_inbox_was_lost_is_not_late_for_the_new_owner() {
    let (db, proxy, one, two) = two_and_a_proxy().await;
    let token = db.agent("a").await;
    let mut near = one.raw_with("a", &token, 10).await;
    until_owned(&db, "a").await;
    let owner: String = db.ask("select broker_id::text from postbell.leases").await;
    insert(&db.sql().await, "a", 5, "1").await;
    assert_eq!(near.expect("msg").await["tag"], 1);
    proxy.shut();
    one.until_ready(false).await;
    // The agent takes nothing more here, so that only the session over there can have the second attempt.
    near.say(r#"{"op":"window","n":0}"#).await;
    near.say(r#"{"op":"nack","tag":1,"outcome":"fail","delay_ms":0}"#).await;
    db.until(&format!("select lease_until < now() from postbell.brokers where broker_id = '{owner}'")).await;
    let mut far = two.raw_with("a", &token, 0).await;
    db.until(&format!("select exists (select from postbell.leases where broker_id <> '{owner}')")).await;
    db.until(&format!("select bool_and(armed) from postbell.brokers where broker_id <> '{owner}'")).await;
    proxy.heal();
    db.until("select attempt = 1 from postbell.deliveries").await;
    crate::bell::judged(&two).await;
    assert_eq!(two.metric("postbell_tail_late_total").await, 0.0);
    far.say(r#"{"op":"window","n":1}"#).await;
    assert_eq!(far.expect("msg").await["attempt"], 2);
}

#[tokio::test]
async fn a_stranger_is_no_broker() {
    let (one, two) = two().await;
    let token = one.db.agent("a").await;
    let _near = one.raw_with("a", &token, 5).await;
    let id: String =
        one.db.ask("select broker_id::text from postbell.brokers order by broker_id limit 1").await;
    for (id, token) in [(id.as_str(), token.as_str()), ("00000000-0000-0000-0000-000000000001", "pb_guess")] {
        let mut raw = Raw::open(two.agents).await;
        raw.say(&format!(r#"{{"op":"hello","agent":"a","token":"{token}","broker":"{id}"}}"#)).await;
        raw.expect_error("unauthorized", true).await;
    }
}

#[tokio::test]
async fn a_killed_owners_inbox_is_taken_before_its_lease_ends() {
    let db = migrated().await;
    let token = db.agent("a").await;
    let port = kept_port();
    let address = port.address();
    let owner = Process::start(&db, &port);
    let two = Mesh::on(db.clone(), &[]).await;
    let builder =
        |url: &str| Builder::new(url, "a", &token).window(20).reconnect_first(Duration::from_millis(20));
    let (_near, mut near) = builder(&format!("tcp://{address}")).connect().await.unwrap();
    until_owned(&db, "a").await;
    let (_far, mut far) = builder(&two.url()).connect().await.unwrap();
    two.until_metric("postbell_links", |n| n == 1.0).await;
    let sql = db.sql().await;
    insert(&sql, "a", 5, "1").await;
    tokio::select! {
        delivery = next(&mut near) => delivery.ack_confirmed().await.unwrap(),
        delivery = next(&mut far) => delivery.ack_confirmed().await.unwrap(),
    }
    let owner_id: String = db.ask("select broker_id::text from postbell.leases").await;
    drop(owner);
    // The lease must not free the inbox by ending three seconds from now.
    let endless = format!(
        "update postbell.brokers set lease_until = now() + interval '1 hour' where broker_id = '{owner_id}'"
    );
    sql.batch_execute(&endless).await.unwrap();
    insert(&sql, "a", 5, "2").await;
    let delivery = next(&mut far).await;
    assert_eq!(delivery.payload(), "2");
    delivery.ack_confirmed().await.unwrap();
}

#[tokio::test]
async fn a_broker_started_again_after_a_crash_has_its_inboxes_at_once() {
    let db = migrated().await;
    let token = db.agent("a").await;
    let port = kept_port();
    let address = port.address();
    let crashed = Process::start(&db, &port);
    // Somebody else could have this instance's name. If this client were told that it is taken over, it would not
    // come again.
    let builder = Builder::new(&format!("tcp://{address}"), "a", &token).instance("main");
    let (client, mut deliveries) =
        builder.window(1).reconnect_first(Duration::from_millis(20)).connect().await.unwrap();
    until_owned(&db, "a").await;
    drop(crashed);
    // The lease must not free the inbox by ending.
    let sql = db.sql().await;
    sql.batch_execute("update postbell.brokers set lease_until = now() + interval '1 hour'").await.unwrap();
    insert(&sql, "a", 5, "1").await;
    let _again = Process::start(&db, &port);
    let delivery = next(&mut deliveries).await;
    assert_eq!((delivery.payload(), delivery.attempt()), ("1", 1));
    delivery.ack_confirmed().await.unwrap();
    client.close().await;
}

#[tokio::test]
async fn an_owner_that_advertises_the_same_address_is_nobody_to_link_to() {
    let db = migrated().await;
    let token = db.agent("a").await;
    let twice = [("POSTBELL_ADVERTISE", "127.0.0.1:1")];
    let (one, two) = (Mesh::on(db.clone(), &twice).await, Mesh::on(db.clone(), &twice).await);
    let near = one.raw_with("a", &token, 0).await;
    until_owned(&db, "a").await;
    let mut far = two.raw_with("a", &token, 5).await;
    insert(&db.sql().await, "a", 5, "1").await;
    db.until("select exists (select from postbell.leases where wanted_until is not null)").await;
    drop(near);
    assert_eq!(far.expect("msg").await["payload"], 1);
}

#[tokio::test]
async fn a_broker_that_calls_itself_does_not_take_its_agents_place() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let hello = |more: &str| format!(r#"{{"op":"hello","agent":"a","instance":"main","window":1,{more}}}"#);
    let mut agent = Raw::open(mesh.agents).await;
    agent.say(&hello(&format!(r#""token":"{token}""#))).await;
    agent.expect("welcome").await;
    until_owned(&mesh.db, "a").await;
    let known = "update postbell.brokers set token_hash = sha256('its credential')";
    mesh.db.sql().await.batch_execute(known).await.unwrap();
    let id: String = mesh.db.ask("select broker_id::text from postbell.brokers").await;
    let mut link = Raw::open(mesh.agents).await;
    link.say(&hello(&format!(r#""token":"its credential","broker":"{id}""#))).await;
    link.expect_error("not_owner", true).await;
    insert(&mesh.db.sql().await, "a", 5, "1").await;
    assert_eq!(agent.expect("msg").await["payload"], 1);
}

#[tokio::test]
async fn a_link_that_comes_late_does_not_take_the_place_of_the_one_that_stands() {
    let (one, two) = two().await;
    let token = one.db.agent("a").await;
    let _near = one.raw_with("a", &token, 0).await;
    until_owned(&one.db, "a").await;
    let mut agent = Raw::open(two.agents).await;
    agent
        .say(&format!(r#"{{"op":"hello","agent":"a","token":"{token}","instance":"main","window":5}}"#))
        .await;
    agent.expect("welcome").await;
    two.until_metric("postbell_links", |n| n == 1.0).await;
    // The second broker is not known as a broker: this is what it would do.
    let known = "update postbell.brokers b set token_hash = sha256('its credential')
                 where not exists (select from postbell.leases l where l.broker_id = b.broker_id)";
    one.db.sql().await.batch_execute(known).await.unwrap();
    let id = "select broker_id::text from postbell.brokers where token_hash = sha256('its credential')";
    let id: String = one.db.ask(id).await;
    let link = |rank: &str| {
        format!(
            r#"{{"op":"hello","agent":"a","token":"its credential","broker":"{id}",{rank}"instance":"main"}}"#
        )
    };
    let mut late = Raw::open(one.agents).await;
    late.say(&link(r#""rank":1,"#)).await;
    late.expect("welcome").await;
    late.expect_error("taken_over", true).await;
    insert(&one.db.sql().await, "a", 5, "1").await;
    assert_eq!(agent.expect("msg").await["payload"], 1);
    // If the order of two hellos is not known, the last one counts.
    let mut last = Raw::open(one.agents).await;
    last.say(&link("")).await;
    last.expect("welcome").await;
    agent.expect_error("taken_over", true).await;
}

/// An agent gives up a hello that a broker has not answered yet, and is in elsewhere. That hello is the newer one for the
/// broker that was slow.
#[tokio::test]
async fn a_hello_that_was_given_up_does_not_take_the_place_of_the_session_that_stands() {
    let (one, two) = two().await;
    let token = one.db.agent("a").await;
    let _near = one.raw_with("a", &token, 0).await;
    until_owned(&one.db, "a").await;
    let hello = format!(r#"{{"op":"hello","agent":"a","token":"{token}","instance":"main","window":5}}"#);
    let mut agent = Raw::open(two.agents).await;
    agent.say(&hello).await;
    agent.expect("welcome").await;
    two.until_metric("postbell_links", |n| n == 1.0).await;
    let sql = one.db.sql().await;
    sql.batch_execute("begin; lock table postbell.role_limits in access exclusive mode").await.unwrap();
    let mut given_up = Raw::open(one.agents).await;
    given_up.say(&hello).await;
    // The look after rights may wait there as well.
    one.db.until("select count(*) > 0 from pg_locks where relation = 'postbell.role_limits'::regclass and not granted").await;
    drop(given_up);
    sql.batch_execute("commit").await.unwrap();
    one.until_metric("postbell_closed_total{reason=\"disconnect\"}", |n| n == 1.0).await;
    insert(&sql, "a", 5, "1").await;
    assert_eq!(agent.expect("msg").await["payload"], 1);
}

#[tokio::test]
async fn a_broker_that_stops_gives_back_what_its_agents_have_over_links_and_does_not_count_it() {
    let db = migrated().await;
    let one = Mesh::on(db.clone(), &[]).await;
    let two = Mesh::on(db.clone(), &[("POSTBELL_DRAIN_SECONDS", "1")]).await;
    let token = db.agent("a").await;
    let mut near = one.raw_with("a", &token, 0).await;
    until_owned(&db, "a").await;
    let mut far = two.raw_with("a", &token, 5).await;
    insert(&db.sql().await, "a", 5, "1").await;
    assert_eq!(far.expect("msg").await["attempt"], 1);
    let stopping = tokio::spawn(two.stop());
    far.expect("drain").await;
    // The owner pushes nothing more to the leaving session either.
    insert(&db.sql().await, "a", 5, "2").await;
    far.expect_error("stopping", true).await;
    let (_, stopped) = stopping.await.unwrap();
    assert_eq!(stopped, Stopped { given_back: 1, unsettled: 0, broken: false });
    near.say(r#"{"op":"window","n":5}"#).await;
    for _ in 0..2 {
        assert_eq!(near.expect("msg").await["attempt"], 1);
    }
}

/// Agents behind a balancer, two sessions each at times, under load, while each broker is stopped in turn.
#[tokio::test]
async fn a_rolling_restart_under_load_loses_nothing_and_delivers_nothing_twice() {
    const AGENTS: usize = 6;
    const MESSAGES: usize = 600;
    let db = migrated().await;
    let settings = [("POSTBELL_DRAIN_SECONDS", "30")];
    let mut brokers = vec![Mesh::on(db.clone(), &settings).await, Mesh::on(db.clone(), &settings).await];
    let proxy = Proxy::in_turn(brokers.iter().map(|b| b.agents).collect()).await.unwrap();
    let handled: Arc<Mutex<HashMap<String, usize>>> = Arc::default();
    let mut agents = JoinSet::new();
    for n in 0..AGENTS {
        let name = format!("agent-{n}");
        let token = db.agent(&name).await;
        // Two sessions of one agent, which land on different brokers.
        for _ in 0..2 {
            let builder = Builder::new(&format!("tcp://{}", proxy.address), &name, &token).window(4);
            let builder = builder.reconnect_first(Duration::from_millis(20));
            let (client, mut deliveries) = builder.connect().await.unwrap();
            let handled = handled.clone();
            agents.spawn(async move {
                let _client = client;
                while let Some(delivery) = deliveries.next().await {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    *handled.lock().unwrap().entry(delivery.payload().to_owned()).or_default() += 1;
                    delivery.ack().await;
                }
            });
        }
    }
    let sql = db.sql().await;
    for n in 0..MESSAGES {
        insert(&sql, &format!("agent-{}", n % AGENTS), 5, &n.to_string()).await;
        if n == MESSAGES / 4 || n == MESSAGES / 2 {
            let old = brokers.remove(0);
            brokers.push(Mesh::on(db.clone(), &settings).await);
            proxy.lead_to(brokers.iter().map(|b| b.agents).collect());
            let (_, stopped) = old.stop().await;
            assert_eq!(stopped, Stopped { given_back: 0, unsettled: 0, broken: false });
        }
    }
    db.until("select count(*) = 0 from postbell.deliveries").await;
    let handled = handled.lock().unwrap();
    assert_eq!(handled.len(), MESSAGES, "lost");
    let twice: Vec<_> = handled.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
    assert!(proxy.led() > 2 * AGENTS, "agents moved");
}
