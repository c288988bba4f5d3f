//! Groups, questions and answers, and messages that are handled in turn.

use std::time::Duration;

use postbell_client::message::MessageType;
use postbell_client::{Builder, ClientError, Deliveries, Outgoing};
use serde_json::json;
use tokio::time::timeout;

use crate::harness::migrated;
use crate::mesh::{Mesh, PATIENCE, next};

async fn to_group(mesh: &Mesh, payloads: &str) {
    let insert = "insert into agent_messages (from_agent_id, to_group, message_type, payload)
                  select 'psql', 'diggers', 'command', to_jsonb(n) from unnest($1::text::int[]) n";
    mesh.db.sql().await.execute(insert, &[&payloads]).await.expect("inserts");
}

fn in_group(mesh: &Mesh, agent: &str, token: &str) -> Builder {
    mesh.builder(agent, token).group("diggers").instance("one")
}

#[tokio::test]
async fn each_message_to_a_group_goes_to_one_of_those_that_take_from_it() {
    let mesh = Mesh::start().await;
    to_group(&mesh, "{1,2}").await;
    let (a, b) = (mesh.db.agent("a").await, mesh.db.agent("b").await);
    let (_a, mut to_a) = in_group(&mesh, "a", &a).window(2).connect().await.expect("connects");
    let first = [next(&mut to_a).await, next(&mut to_a).await];
    assert_eq!(
        first.each_ref().map(|d| (d.payload(), d.group())),
        [("1", Some("diggers")), ("2", Some("diggers"))]
    );
    // The same instance of another agent is a process of its own.
    let (_b, mut to_b) = in_group(&mesh, "b", &b).window(2).connect().await.expect("connects");
    let (sender, mut own) = mesh.builder("a", &a).window(5).connect().await.expect("connects");
    let message = Outgoing::to_group("diggers", MessageType::Command, &3).expect("a message");
    sender.send(message).await.expect("sent");
    let third = next(&mut to_b).await;
    assert_eq!((third.payload(), third.from()), ("3", "a"), "the other one is full");
    sender.send(Outgoing::new("a", MessageType::Data, &4).expect("a message")).await.expect("sent");
    assert_eq!(next(&mut own).await.payload(), "4", "its own inbox is another");
    for delivery in first.into_iter().chain([third]) {
        delivery.ack_confirmed().await.expect("acknowledged");
    }
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages where status = 'processed'").await, 3);
    assert_eq!(
        mesh.db.ask::<i64>("select count(*) from postbell.leases where inbox = 'group:diggers'").await,
        1
    );
}

#[tokio::test]
async fn what_a_group_loses_or_cannot_do_is_accounted_for_as_an_agents() {
    let mesh = Mesh::with(&[("POSTBELL_MAX_ATTEMPTS", "1")]).await;
    let (a, b) = (mesh.db.agent("a").await, mesh.db.agent("b").await);
    let (_a, mut to_a) = in_group(&mesh, "a", &a).connect().await.expect("connects");
    let (b, mut to_b) = in_group(&mesh, "b", &b).connect().await.expect("connects");
    to_group(&mesh, "{1}").await;
    let give_back = async |deliveries: &mut Deliveries| {
        let delivery = next(deliveries).await;
        delivery.release(Duration::ZERO).await;
    };
    tokio::select! { () = give_back(&mut to_a) => {}, () = give_back(&mut to_b) => {} }
    let delivery = tokio::select! { d = next(&mut to_a) => d, d = next(&mut to_b) => d };
    delivery.fail("no spade", None).await;
    mesh.db.until("select exists (select from agent_messages where status = 'failed' and error_message like 'no spade%')").await;
    let known = "select count(*) from postbell.deliveries where inbox = 'group:diggers' and state = 'dead'";
    assert_eq!(mesh.db.ask::<i64>(known).await, 1);
    b.close().await;
    let refused = postbell::store::agents::add(
        &mesh.db.pool(),
        &postbell::store::agents::NewAgent { agent_id: "group:diggers", ..Default::default() },
    )
    .await;
    assert!(refused.expect_err("a group's name").to_string().contains("cannot begin with group:"));
}

#[tokio::test]
async fn a_question_is_answered_to_the_process_that_asked_though_its_window_is_full() {
    let mesh = Mesh::start().await;
    let asker = mesh.db.agent("asker").await;
    let (_other, mut to_other) = mesh.builder("asker", &asker).window(0).connect().await.expect("connects");
    let (one, mut to_one) = mesh.builder("asker", &asker).window(1).connect().await.expect("connects");
    let (answerer, mut questions) = mesh.connect("answerer", 5).await;
    crate::mesh::insert(&mesh.db.sql().await, "asker", 5, "\"a task\"").await;
    let held = next(&mut to_one).await;
    let answering = async {
        for _ in 0..10 {
            let question = next(&mut questions).await;
            let answer = Outgoing::answer(&question, &json!({"to": question.payload()})).expect("an answer");
            answerer.send(answer).await.expect("sent");
            question.ack().await;
        }
    };
    let asking = async {
        for n in 0..10 {
            let question = Outgoing::new("answerer", MessageType::Query, &n).expect("a question");
            let answer = one.request(question, PATIENCE).await.expect("an answer");
            assert_eq!(answer.from, "answerer");
            assert_eq!(
                answer.payload.parse::<serde_json::Value>().expect("JSON"),
                json!({"to": n.to_string()})
            );
        }
    };
    tokio::join!(answering, asking);
    held.ack_confirmed().await.expect("acknowledged");
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
    assert!(timeout(Duration::ZERO, to_other.next()).await.is_err(), "another process of the same agent");
    assert!(timeout(Duration::ZERO, to_one.next()).await.is_err(), "an answer is no delivery");
}

#[tokio::test]
async fn who_does_not_answer_is_named_and_the_question_expires() {
    let mesh = Mesh::start().await;
    let (asker, _deliveries) = mesh.connect("asker", 5).await;
    let question = Outgoing::new("nobody-home", MessageType::Query, &1).expect("a question");
    match asker.request(question, Duration::from_millis(50)).await {
        Err(e @ ClientError::NoAnswer { .. }) => {
            assert_eq!(e.to_string(), "nobody-home did not answer in 50ms");
        }
        other => panic!("{other:?}"),
    }
    mesh.db.until("select exists (select from agent_messages where expires_at < now())").await;
    let (late, mut questions) = mesh.connect("nobody-home", 5).await;
    crate::mesh::insert(&mesh.db.sql().await, "nobody-home", 9, "2").await;
    assert_eq!(next(&mut questions).await.payload(), "2", "the expired one is not delivered");
    late.close().await;
}

#[tokio::test]
async fn an_answer_to_a_process_that_is_gone_goes_to_another_of_the_agent() {
    let mesh = Mesh::start().await;
    let (_asker, mut deliveries) = mesh.connect("asker", 5).await;
    let insert = "insert into agent_messages (from_agent_id, to_agent_id, to_instance, message_type, priority, payload)
                  values ('psql', 'asker', 'gone', 'response', 3, '1')";
    mesh.db.sql().await.execute(insert, &[]).await.expect("inserts");
    let delivery = next(&mut deliveries).await;
    assert_eq!((delivery.payload(), delivery.priority()), ("1", 3));
    delivery.ack_confirmed().await.expect("acknowledged");
}

#[tokio::test]
async fn messages_with_one_ordering_key_are_handled_one_after_the_other() {
    let mesh = Mesh::start().await;
    let (_worker, mut deliveries) = mesh.connect("worker", 100).await;
    let insert = "insert into agent_messages (from_agent_id, to_agent_id, ordering_key, message_type, payload)
                  select 'psql', 'worker', 'county-' || n % 3, 'data', to_jsonb(n) from generate_series(0, 29) n";
    mesh.db.sql().await.execute(insert, &[]).await.expect("inserts");
    let mut last = [None; 3];
    let mut holds = Vec::new();
    for turn in 0.. {
        // Three come at once, one of each key; the oldest of them is handled.
        while holds.len() < 3.min(30 - turn) {
            let delivery = next(&mut deliveries).await;
            let n: usize = delivery.payload().parse().expect("a number");
            if delivery.attempt() == 1 {
                assert!(last[n % 3] < Some(n), "{n} after {last:?}");
                last[n % 3] = Some(n);
            } else {
                assert_eq!(last[n % 3], Some(n), "what failed is handled again before the next of its key");
            }
            holds.push((n, delivery));
            let mut keys: Vec<_> = holds.iter().map(|(n, _)| n % 3).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), holds.len(), "one at a time: {holds:?}");
        }
        if holds.is_empty() {
            break;
        }
        let (n, delivery) = holds.remove(0);
        if n == 7 && delivery.attempt() == 1 {
            delivery.fail("once more", Some(Duration::from_millis(1))).await;
            let again = next(&mut deliveries).await;
            assert_eq!((again.payload(), again.attempt()), ("7", 2));
            holds.insert(0, (7, again));
            let (_, again) = holds.remove(0);
            again.ack_confirmed().await.expect("acknowledged");
        } else {
            delivery.ack_confirmed().await.expect("acknowledged");
        }
    }
}

#[tokio::test]
async fn a_group_and_an_answer_reach_across_brokers() {
    let db = migrated().await;
    let (one, two) = (Mesh::on(db.clone(), &[]).await, Mesh::on(db, &[]).await);
    let (a, b) = (one.db.agent("a").await, one.db.agent("b").await);
    let (_a, mut to_a) = in_group(&one, "a", &a).window(1).connect().await.expect("connects");
    one.db.until("select exists (select from postbell.leases where inbox = 'group:diggers')").await;
    let (_b, mut to_b) = in_group(&two, "b", &b).window(1).connect().await.expect("connects");
    two.until_metric("postbell_links", |n| n == 1.0).await;
    to_group(&one, "{1,2}").await;
    let (first, second) = (next(&mut to_a).await, next(&mut to_b).await);
    assert_ne!(first.payload(), second.payload());
    first.ack_confirmed().await.expect("acknowledged");
    second.ack_confirmed().await.expect("acknowledged");
    // The asker's inbox is owned by the first broker, and the process that asks is at the second.
    let (_elsewhere, mut elsewhere) = one.builder("a", &a).connect().await.expect("connects");
    one.db.until("select exists (select from postbell.leases where inbox = 'a')").await;
    let (asker, _own) = two.builder("a", &a).window(0).connect().await.expect("connects");
    let (answerer, mut questions) = two.builder("b", &b).connect().await.expect("connects");
    let answering = async {
        let question = next(&mut questions).await;
        answerer.send(Outgoing::answer(&question, &7).expect("an answer")).await.expect("sent");
        question.ack().await;
    };
    let question = Outgoing::new("b", MessageType::Query, &6).expect("a question");
    let ((), answer) = tokio::join!(answering, asker.request(question, PATIENCE));
    assert_eq!(answer.expect("an answer").payload, "7");
    assert!(timeout(Duration::ZERO, elsewhere.next()).await.is_err());
}
