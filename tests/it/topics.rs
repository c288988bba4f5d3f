//! Topics and environments: which agents get a message to many.

use postbell::store::subscriptions::SUBSCRIPTIONS_MAX;
use postbell_client::message::MessageType;
use postbell_client::protocol::ErrorCode;
use postbell_client::protocol::topic::matches;
use postbell_client::{ClientError, Deliveries, Outgoing};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;

use crate::mesh::{Mesh, next};

async fn publish(sql: &Client, from: &str, topic: &str, payload: &str) {
    let insert = "insert into agent_messages (from_agent_id, topic, message_type, payload)
                  values ($1, $2, 'data', $3::text::jsonb)";
    sql.execute(insert, &[&from, &topic, &payload]).await.expect("inserts");
}

async fn expect(deliveries: &mut Deliveries, payloads: &[&str]) {
    for payload in payloads {
        let delivery = next(deliveries).await;
        assert_eq!(delivery.payload(), *payload);
        delivery.ack_confirmed().await.expect("acknowledged");
    }
}

/// Nothing else waits for an agent.
async fn nothing_more(mesh: &Mesh, agent: &str) {
    let waiting = format!("select count(*) from postbell.deliveries where inbox = '{agent}'");
    assert_eq!(mesh.db.ask::<i64>(&waiting).await, 0, "{agent}");
}

#[tokio::test]
async fn a_topic_goes_to_whom_a_pattern_of_theirs_matches_once() {
    let mesh = Mesh::start().await;
    let (one, mut to_one) = mesh.connect("one", 10).await;
    let (two, mut to_two) = mesh.connect("two", 10).await;
    let (_none, _) = mesh.connect("none", 10).await;
    one.subscribe("county.c1.*").await.expect("subscribed");
    one.subscribe("county.>").await.expect("subscribed");
    one.subscribe("county.>").await.expect("once more is no more");
    two.subscribe("*.c1.roads").await.expect("subscribed");
    let sql = mesh.db.sql().await;
    publish(&sql, "psql", "county.c1.roads", "1").await;
    publish(&sql, "psql", "county.c2", "2").await;
    publish(&sql, "psql", "state", "3").await;
    publish(&sql, "two", "county.c1.roads", "4").await;
    expect(&mut to_one, &["1", "2", "4"]).await;
    expect(&mut to_two, &["1"]).await;
    two.unsubscribe("*.c1.roads").await.expect("unsubscribed");
    publish(&sql, "psql", "county.c1.roads", "5").await;
    expect(&mut to_one, &["5"]).await;
    for agent in ["one", "two", "none"] {
        nothing_more(&mesh, agent).await;
    }
    let handled = "select count(*) from agent_messages where status = 'processed'";
    assert_eq!(mesh.db.ask::<i64>(handled).await, 4, "all but the one that nobody wanted");
}

#[tokio::test]
async fn a_subscription_outlives_its_session_and_ends_with_its_agent() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let mut raw = mesh.raw_with("a", &token, 5).await;
    raw.say(r#"{"op":"subscribe","ref":"s","topic":"alerts.>"}"#).await;
    assert_eq!(raw.expect("subscribed").await["topic"], "alerts.>");
    raw.say(r#"{"op":"bye"}"#).await;
    assert_eq!(raw.line().await, None);
    let sql = mesh.db.sql().await;
    publish(&sql, "psql", "alerts.high", "1").await;
    let mut raw = mesh.raw_with("a", &token, 5).await;
    let msg = raw.expect("msg").await;
    assert_eq!((&msg["payload"], &msg["topic"]), (&1.into(), &"alerts.high".into()));
    sql.execute("update agent_registry set enabled = false where agent_id = 'a'", &[])
        .await
        .expect("disabled");
    raw.expect_error("disabled", true).await;
    publish(&sql, "psql", "alerts.high", "2").await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await, 1, "only what it had");
    postbell::store::agents::remove(&mesh.db.pool(), "a", true).await.expect("removed");
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.subscriptions").await, 0);
}

#[tokio::test]
async fn agents_send_to_topics_and_orchestrators_also_to_environments() {
    let mesh = Mesh::start().await;
    let (agent, mut to_agent) = mesh.connect("agent", 10).await;
    let token = mesh.db.agent_as("chief", Some("orchestrator")).await;
    let (chief, mut to_chief) = mesh.builder("chief", &token).connect().await.expect("connects");
    chief.subscribe("news").await.expect("subscribed");
    let topic = |n: i32| Outgoing::to_topic("news", MessageType::Data, &n).expect("a message");
    agent.send(topic(1)).await.expect("sent");
    let delivery = next(&mut to_chief).await;
    assert_eq!((delivery.payload(), delivery.from(), delivery.topic()), ("1", "agent", Some("news")));
    delivery.ack().await;
    let to_all = |environment: &str| {
        Outgoing::to_environment(environment, MessageType::Command, &2).expect("a message")
    };
    match agent.send(to_all("pc")).await {
        Err(ClientError::Refused { code: ErrorCode::Forbidden, message, .. }) => {
            assert!(message.contains("a whole environment"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    chief.send(to_all("railway")).await.expect("sent, to nobody");
    chief.send(to_all("pc")).await.expect("sent");
    expect(&mut to_agent, &["2"]).await;
    nothing_more(&mesh, "chief").await;
}

/// One statement has every kind of address. The deliveries are the same that each address alone would make.
#[tokio::test]
async fn one_insert_may_have_every_kind_of_address() {
    let mesh = Mesh::start().await;
    let (a, mut to_a) = mesh.connect("a", 10).await;
    let (_b, mut to_b) = mesh.connect("b", 10).await;
    a.subscribe("t").await.expect("subscribed");
    let insert = "insert into agent_messages (from_agent_id, to_agent_id, topic, to_environment, message_type, payload)
                  values ('x', null, 't', null, 'data', '1'), ('x', 'b', null, null, 'data', '2'),
                         ('x', null, null, 'pc', 'data', '3'), ('x', null, null, 'none', 'data', '4'),
                         ('x', null, null, null, 'data', '5'), ('x', 'b', 't', 'pc', 'data', '6')";
    mesh.db.sql().await.batch_execute(insert).await.expect("inserts");
    let sorted = |mut payloads: Vec<String>| {
        payloads.sort();
        payloads
    };
    let mut seen = (Vec::new(), Vec::new());
    for _ in 0..3 {
        seen.0.push(next(&mut to_a).await.payload().to_owned());
    }
    for _ in 0..4 {
        seen.1.push(next(&mut to_b).await.payload().to_owned());
    }
    assert_eq!(
        (sorted(seen.0), sorted(seen.1)),
        (vec!["1".into(), "3".into(), "5".into()], vec!["2".into(), "3".into(), "5".into(), "6".into()])
    );
    let deliveries = "select count(*) from postbell.deliveries";
    assert_eq!(mesh.db.ask::<i64>(deliveries).await, 7);
}

#[tokio::test]
async fn what_is_no_topic_is_refused_and_subscriptions_are_bounded() {
    let mesh = Mesh::start().await;
    let mut raw = mesh.raw("a", 5).await;
    for bad in ["", "a..b", "a.>.b", "a.b.c.d.e.f.g.h.i"] {
        raw.say(&format!(r#"{{"op":"subscribe","topic":"{bad}"}}"#)).await;
        raw.expect_error("bad_field", false).await;
    }
    for address in [r#""topic":"a.*""#, r#""topic":"a","to":"b""#, r#""x":1"#] {
        raw.say(&format!(r#"{{"op":"send","type":"data","payload":1,{address}}}"#)).await;
        raw.expect_error("bad_field", false).await;
    }
    for n in 0..SUBSCRIPTIONS_MAX {
        raw.say(&format!(r#"{{"op":"subscribe","topic":"t.{n}"}}"#)).await;
        raw.expect("subscribed").await;
    }
    raw.say(r#"{"op":"subscribe","ref":"r","topic":"one.more"}"#).await;
    let refused = raw.expect_error("rejected", false).await;
    assert!(refused["message"].as_str().unwrap().contains("100 subscriptions"), "{refused}");
    raw.say(r#"{"op":"unsubscribe","ref":"u","topic":"t.0"}"#).await;
    raw.expect("unsubscribed").await;
    raw.say(r#"{"op":"subscribe","topic":"one.more"}"#).await;
    raw.expect("subscribed").await;
}

/// The database and the library agree on every match.
#[tokio::test]
async fn the_patterns_of_a_topic_are_those_that_match_it() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    let mut rng = SmallRng::seed_from_u64(7);
    let mut any = |tokens: &[&str], most: usize| {
        let count = rng.random_range(1..=most);
        (0..count).map(|_| tokens[rng.random_range(0..tokens.len())]).collect::<Vec<_>>().join(".")
    };
    let pairs: Vec<(String, String)> = (0..2_000)
        .map(|_| {
            let mut pattern = any(&["a", "b", "*"], 4);
            if pattern.len() % 3 == 0 {
                pattern.push_str(".>");
            }
            (pattern, any(&["a", "b"], 6))
        })
        .chain([(">".to_owned(), "a".to_owned()), ("a.>".to_owned(), ["a"; 12].join("."))])
        .collect();
    let (patterns, topics): (Vec<&str>, Vec<&str>) = pairs.iter().map(|(p, t)| (&**p, &**t)).unzip();
    let asked = "select p = any (postbell.topic_patterns(t)) from unnest($1::text[], $2::text[]) as u (p, t)";
    let found = sql.query(asked, &[&patterns, &topics]).await.expect("answers");
    let mut both = [0, 0];
    for ((pattern, topic), row) in pairs.iter().zip(found) {
        assert_eq!(row.get::<_, bool>(0), matches(pattern, topic), "{pattern} and {topic}");
        both[usize::from(matches(pattern, topic))] += 1;
    }
    assert!(both[0] > 100 && both[1] > 100, "{both:?}");
}
