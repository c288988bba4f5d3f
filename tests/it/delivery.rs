//! Deliveries: which are pushed, to whom, and in which order.

use std::collections::HashSet;
use std::time::Duration;

use postbell::store::Connection;
use postbell::store::migrate::migrate;
use postbell::store::settle::{Kind, settle_kind};
use postbell_engine::inbox::event::{Outcome, Settle};
use postbell_engine::inbox::{Attempt, DeliveryId};
use uuid::Uuid;

use crate::harness::{EXISTING_MESH, fresh, migrated, roles};
use crate::mesh::{Mesh, insert, next};

#[tokio::test]
async fn an_insert_reaches_its_agent_and_an_ack_settles_it() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, correlation_id, headers)
         values ('x', 'a', 'query', '{\"k\": [1, 2.50, \"ü\"]}', 'c1', '{\"h\": 1}')",
    )
    .await
    .unwrap();
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.payload(), r#"{"k": [1, 2.50, "ü"]}"#);
    assert_eq!((delivery.from(), delivery.message_type(), delivery.priority()), ("x", "query", 5));
    assert_eq!(delivery.correlation_id(), Some("c1"));
    assert_eq!(delivery.headers().unwrap().get(), r#"{"h": 1}"#);
    delivery.ack_confirmed().await.unwrap();
    // A confirmed ack is committed, so there is no waiting here.
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await, 0);
    assert_eq!(mesh.db.ask::<String>("select status from agent_messages").await, "processed");
}

#[tokio::test]
async fn the_urgent_come_first_and_every_sixteenth_push_is_the_oldest() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    // Arrival order: all of priority 9, then 5, then 1.
    for priority in [9, 5, 1] {
        let insert = format!(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority)
             select 'x', 'a', 'data', to_jsonb(n + {priority} * 1000), {priority}
             from generate_series(0, 39) n order by n"
        );
        sql.batch_execute(&insert).await.unwrap();
    }
    let (_client, mut deliveries) = mesh.connect("a", 1).await;
    let mut model: Vec<(i32, i32)> = [1, 5, 9].iter().flat_map(|p| (0..40).map(move |n| (*p, n))).collect();
    for push in 0..120 {
        let expected = if push % 16 == 15 {
            // Arrival order is by priority descending here.
            let oldest = model.iter().enumerate().min_by_key(|(_, (p, n))| (-p, *n)).unwrap().0;
            model.remove(oldest)
        } else {
            model.remove(0)
        };
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), (expected.1 + expected.0 * 1000).to_string(), "push {push}");
        delivery.ack().await;
    }
}

#[tokio::test]
async fn the_window_is_an_absolute_maximum() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    for n in 0..10 {
        insert(&sql, "a", 5, &n.to_string()).await;
    }
    let mut raw = mesh.raw("a", 3).await;
    for tag in 1..=3 {
        assert_eq!(raw.expect("msg").await["tag"], tag);
    }
    // A pong right after the ping: nothing was pushed in between.
    raw.say(r#"{"op":"ping"}"#).await;
    raw.expect("pong").await;
    raw.say(r#"{"op":"ack","tag":2}"#).await;
    assert_eq!(raw.expect("msg").await["tag"], 4);
    raw.say(r#"{"op":"window","n":5}"#).await;
    assert_eq!(raw.expect("msg").await["tag"], 5);
    assert_eq!(raw.expect("msg").await["tag"], 6);
    raw.say(r#"{"op":"ping"}"#).await;
    raw.expect("pong").await;
}

#[tokio::test]
async fn a_broadcast_reaches_every_registered_agent_but_its_sender() {
    let mesh = Mesh::start().await;
    let mut agents = Vec::new();
    for (name, role) in [("a", Some("orchestrator")), ("b", None), ("c", None)] {
        let token = mesh.db.agent_as(name, role).await;
        agents.push(mesh.builder(name, &token).window(5).connect().await.expect("connects"));
    }
    let token = mesh.db.agent("off").await;
    mesh.db
        .sql()
        .await
        .batch_execute("update agent_registry set enabled = false where agent_id = 'off'")
        .await
        .unwrap();
    let send =
        postbell_client::Outgoing::new("*", postbell_client::message::MessageType::Alert, &"all").unwrap();
    agents[0].0.send(send).await.unwrap();
    for (_, deliveries) in &mut agents[1..] {
        let delivery = next(deliveries).await;
        let done = "select status = 'processed' from agent_messages";
        assert!(!mesh.db.ask::<bool>(done).await, "a recipient has it still");
        delivery.ack_confirmed().await.unwrap();
    }
    // The last recipient has settled it; the sender and the disabled agent were no recipients.
    assert_eq!(mesh.db.ask::<String>("select status from agent_messages").await, "processed");
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await, 0);
    let refused = mesh.builder("off", &token).connect().await.expect_err("disabled");
    assert!(refused.to_string().contains("unauthorized"), "{refused}");
}

#[tokio::test]
async fn a_broadcast_is_processed_with_its_last_delivery_whatever_is_settled_together() {
    let db = migrated().await;
    for name in ["a", "b", "c"] {
        db.agent(name).await;
    }
    let insert =
        "insert into agent_messages (from_agent_id, message_type, payload) values ('sql', 'data', '1')";
    db.sql().await.batch_execute(insert).await.unwrap();
    let ids: Vec<i64> =
        db.ask("select array_agg(delivery_id order by delivery_id) from postbell.deliveries").await;
    let broker = Connection::open(&db.target()).await.unwrap();
    let ack = |id, failed| Settle {
        inbox: "a".into(),
        attempt: Attempt { delivery_id: DeliveryId(id), failed },
        outcome: Outcome::Ack { handled: Duration::ZERO },
        answer: None,
    };
    let batches =
        [vec![ack(ids[0], 0), ack(ids[1], 7)], vec![ack(ids[1], 0)], vec![ack(ids[2], 0), ack(ids[0], 0)]];
    let mut seen = Vec::new();
    for batch in batches {
        settle_kind(&broker, Uuid::nil(), Kind::Ack, &batch).await.unwrap();
        seen.push(db.ask::<String>("select status from agent_messages").await);
    }
    assert_eq!(seen, ["pending", "pending", "processed"]);
}

#[tokio::test]
async fn a_message_for_an_agent_nobody_knows_waits_for_it() {
    let mesh = Mesh::start().await;
    insert(&mesh.db.sql().await, "later", 5, "1").await;
    mesh.until_metric("postbell_unknown_recipient", |n| n == 1.0).await;
    assert_eq!(mesh.metric("postbell_ready{priority=\"5\"}").await, 1.0);
    assert!(mesh.metric("postbell_oldest_ready_timestamp_seconds{priority=\"5\"}").await > 1.7e9);
    assert_eq!(mesh.metric("postbell_oldest_ready_timestamp_seconds{priority=\"4\"}").await, 0.0);
    let (_client, mut deliveries) = mesh.connect("later", 5).await;
    assert_eq!(next(&mut deliveries).await.payload(), "1");
}

#[tokio::test]
async fn several_sessions_of_an_agent_share_its_inbox() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let mut first = mesh.raw_with("a", &token, 5).await;
    let mut second = mesh.raw_with("a", &token, 5).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 'x', 'a', 'data', to_jsonb(n) from generate_series(1, 10) n",
    )
    .await
    .unwrap();
    let mut seen = HashSet::new();
    for raw in [&mut first, &mut second] {
        for _ in 0..5 {
            assert!(seen.insert(raw.expect("msg").await["payload"].to_string()));
        }
    }
    assert_eq!(seen.len(), 10);
}

#[tokio::test]
async fn a_scheduled_message_becomes_ready_at_its_time_and_not_before() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, deliver_at)
         values ('x', 'a', 'data', '2', now() + interval '1.5 seconds'),
                ('x', 'a', 'data', '1', now() + interval '0.3 seconds'),
                ('x', 'a', 'data', '0', now() - interval '1 hour')",
    )
    .await
    .unwrap();
    for n in 0..3 {
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload(), n.to_string());
        let early: bool = mesh
            .db
            .ask(&format!("select deliver_at > clock_timestamp() from agent_messages where payload = '{n}'"))
            .await;
        assert!(!early, "{n} came before its time");
        delivery.ack().await;
    }
}

#[tokio::test]
async fn an_expired_message_is_never_delivered_and_says_why_it_failed() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, expires_at)
         values ('x', 'a', 'data', '\"late\"', now() + interval '10 milliseconds'),
                ('x', 'nobody', 'data', '\"late\"', now() - interval '1 hour'),
                ('x', 'a', 'data', '\"good\"', now() + interval '1 hour')",
    )
    .await
    .unwrap();
    mesh.db
        .until("select bool_or(expires_at < clock_timestamp()) from agent_messages where to_agent_id = 'a'")
        .await;
    let (_client, mut deliveries) = mesh.connect("a", 5).await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.payload(), "\"good\"");
    delivery.ack().await;
    // The agent's inbox found one of them, the sweep found the other.
    mesh.db
        .until(
            "select count(*) = 2 from agent_messages
             where status = 'failed' and error_message like 'expired%' and payload = '\"late\"'",
        )
        .await;
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
    mesh.until_metric("postbell_expired_total", |n| n == 2.0).await;
}

/// A mesh as people have it today: one of its agents gets a token, connects, and receives the messages that waited
/// for it.
#[tokio::test]
async fn what_waits_in_an_adopted_mesh_is_delivered_to_its_agents() {
    let db = fresh().await;
    roles(&db.client().await, EXISTING_MESH).await;
    let waiting: HashSet<String> = db
        .sql()
        .await
        .query(
            "select message_id::text from agent_messages
             where status = 'pending' and (to_agent_id = 'validation-agent'
                                           or (to_agent_id is null and from_agent_id <> 'validation-agent'))",
            &[],
        )
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert!(waiting.len() > 100, "the fixture has messages that wait");
    migrate(&db.target()).await.unwrap();
    let mesh = Mesh::on(db, &[]).await;
    let (_client, mut deliveries) = mesh.connect("validation-agent", 50).await;
    let mut arrived = HashSet::new();
    while arrived.len() < waiting.len() {
        let delivery = next(&mut deliveries).await;
        assert!(arrived.insert(delivery.id().to_string()), "delivered twice");
        delivery.ack().await;
    }
    assert_eq!(arrived, waiting);
    mesh.db.until("select count(*) = 0 from postbell.deliveries where inbox = 'validation-agent'").await;
    let environment = "select environment from agent_registry where agent_id = 'validation-agent'";
    assert_eq!(mesh.db.ask::<String>(environment).await, "railway", "it stays what it was");
}
