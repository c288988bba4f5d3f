//! Messages that no trigger saw, and messages that a poller sets back, readdresses, or ends in words of its own: each
//! is delivered as its row says, once.

mod histories;

use postbell::store::Connection;
use postbell::store::doctor::examine;
use postbell_client::Deliveries;

use crate::harness::{migrated, number, texts};
use crate::mesh::{Mesh, insert, next};

async fn run(sql: &tokio_postgres::Client, statements: &str) {
    sql.batch_execute(statements).await.unwrap_or_else(|e| panic!("{statements}: {e:?}"));
}

/// The payloads that come before this last one, all acknowledged.
async fn until(deliveries: &mut Deliveries, end: &str) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let delivery = next(deliveries).await;
        let payload = delivery.payload().to_string();
        delivery.ack_confirmed().await.expect("acknowledged");
        if payload == end {
            return all;
        }
        all.push(payload);
    }
}

fn send(to: &str, payload: &str) -> String {
    format!(
        "insert into agent_messages (from_agent_id, {to}, message_type, payload)
         values ('s', 'a', 'data', '{payload}')"
    )
}

/// Each case leaves one message for `a` that no trigger of ours routed.
const UNSEEN: &[&str] = &[
    "set session_replication_role = replica; INSERT; reset session_replication_role",
    "begin; set local session_replication_role = replica; INSERT; commit",
    "begin; alter table agent_messages disable trigger all; INSERT; alter table agent_messages enable trigger all; commit",
    "alter table agent_messages disable trigger user; INSERT; alter table agent_messages enable trigger user",
    "alter table agent_messages disable trigger postbell_route; INSERT",
    "begin; set local session_replication_role = replica; COPIED; commit",
];

#[tokio::test]
async fn what_no_trigger_saw_comes_once() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 100).await;
    let sql = mesh.db.sql().await;
    for (n, how) in UNSEEN.iter().enumerate() {
        let inserted = send("to_agent_id", &n.to_string());
        let copied = format!("with x as ({inserted} returning 1) select 1 from x");
        run(&sql, &how.replace("INSERT", &inserted).replace("COPIED", &copied)).await;
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload().to_string(), n.to_string(), "{how}");
        delivery.ack_confirmed().await.expect("acknowledged");
        run(&sql, "alter table agent_messages enable trigger postbell_route").await;
    }
    mesh.db.until("select count(*) = 0 from agent_messages where status <> 'processed'").await;
    mesh.db.until("select count(*) = 0 from postbell.unseen").await;
    // Two sweeps later nothing has come again.
    let sweep = "select count(*) from postbell.deliveries";
    assert_eq!(mesh.db.ask::<i64>(sweep).await, 0);
    let _ = mesh.stop().await;
}

#[tokio::test]
async fn broadcasts_topics_and_groups_that_no_trigger_saw() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 100).await;
    let sql = mesh.db.sql().await;
    run(&sql, "insert into postbell.subscriptions (pattern, agent_id) values ('t.>', 'a')").await;
    run(
        &sql,
        "begin; set local session_replication_role = replica;
         insert into agent_messages (from_agent_id, message_type, payload) values ('s', 'data', '1');
         insert into agent_messages (from_agent_id, topic, message_type, payload) values ('s', 't.x', 'data', '2');
         insert into agent_messages (from_agent_id, to_environment, message_type, payload)
           select 's', environment, 'data', '3' from agent_registry where agent_id = 'a';
         insert into agent_messages (from_agent_id, to_group, message_type, payload) values ('s', 'g', 'data', '4');
         insert into agent_messages (from_agent_id, topic, message_type, payload) values ('s', 'nobody', 'data', '5');
         commit",
    )
    .await;
    let mut found = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut deliveries).await;
        found.push(delivery.payload().to_string());
        delivery.ack_confirmed().await.expect("acknowledged");
    }
    found.sort();
    assert_eq!(found, ["1", "2", "3"]);
    mesh.db.until("select count(*) = 1 from postbell.deliveries where inbox = 'group:g'").await;
    // A broadcast that all have handled, with its mark not written yet, is not sent again by any look.
    run(&sql, "update agent_messages set status = 'pending' where false").await;
    run(&sql, "set postbell.broker = on; update agent_messages set status = 'pending' where topic = 't.x'; set postbell.broker = off").await;
    assert_eq!(mesh.db.ask::<i64>("select postbell.look_at_all()").await, 0);
    let _ = mesh.stop().await;
}

#[tokio::test]
async fn what_is_set_back_to_pending_is_delivered_again() {
    let mesh = Mesh::with(&[("POSTBELL_MAX_ATTEMPTS", "1")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 100).await;
    let sql = mesh.db.sql().await;
    for ended in ["processed", "failed", "null"] {
        insert(&sql, "a", 5, "1").await;
        let delivery = next(&mut deliveries).await;
        if ended == "failed" {
            delivery.fail("no", None).await;
        } else {
            delivery.ack_confirmed().await.expect("acknowledged");
        }
        mesh.db
            .until("select count(*) = 0 from agent_messages where status in ('pending', 'delivered')")
            .await;
        run(&sql, "update agent_messages set status = 'pending', processed_at = null").await;
        let delivery = next(&mut deliveries).await;
        assert_eq!((delivery.payload().to_string().as_str(), delivery.attempt()), ("1", 1), "{ended}");
        delivery.ack_confirmed().await.expect("acknowledged");
        mesh.db.until("select count(*) = 0 from agent_messages where status <> 'processed'").await;
        run(&sql, "truncate agent_messages").await;
    }
    let _ = mesh.stop().await;
}

#[tokio::test]
async fn a_readdressed_message_goes_to_whom_it_is_for_now() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("new", 100).await;
    let old = mesh.db.agent("old").await;
    let sql = mesh.db.sql().await;
    run(&sql, "insert into postbell.subscriptions (pattern, agent_id) values ('t', 'new')").await;
    for (to, change) in [
        ("to_agent_id, topic) values ('old', null)", "to_agent_id = 'new'"),
        ("to_agent_id, topic) values ('old', null)", "to_agent_id = null, topic = 't'"),
        ("to_group, topic) values ('g', null)", "to_group = null, to_agent_id = 'new'"),
        ("topic, to_group) values ('nobody', null)", "topic = 't'"),
    ] {
        let (columns, values) = to.split_once(") values (").expect("both");
        run(&sql, &format!("insert into agent_messages (from_agent_id, message_type, payload, {columns}) values ('s', 'data', '1', {values}")).await;
        run(&sql, &format!("update agent_messages set {change} where status = 'pending'")).await;
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload().to_string(), "1", "{to} {change}");
        delivery.ack_confirmed().await.expect("acknowledged");
    }
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries where inbox <> 'new'").await, 0);
    // The agent that they were for first gets none of them.
    let (_old, mut to_old) = mesh.builder("old", &old).window(10).connect().await.expect("connects");
    insert(&sql, "old", 5, "\"end\"").await;
    assert_eq!(until(&mut to_old, "\"end\"").await, [""; 0]);
    let _ = mesh.stop().await;
}

#[tokio::test]
async fn what_a_broker_has_in_hand_is_not_readdressed() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 1).await;
    let sql = mesh.db.sql().await;
    insert(&sql, "a", 5, "1").await;
    let delivery = next(&mut deliveries).await;
    let refused =
        sql.batch_execute("update agent_messages set to_agent_id = 'u'").await.expect_err("refused");
    let refused = refused.as_db_error().expect("by the database");
    assert!(refused.message().contains("cannot be readdressed: a broker has it for a"), "{refused}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("Insert a new message")));
    delivery.ack_confirmed().await.expect("acknowledged");
    run(&sql, "update agent_messages set to_agent_id = 'u'").await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await, 0, "it is over");
    let _ = mesh.stop().await;
}

const OWN_WORDS: &str = "alter table agent_messages drop constraint agent_messages_status_check";

#[tokio::test]
async fn a_poller_that_ends_a_message_in_a_word_of_its_own_has_ended_it() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("a").await;
    let sql = mesh.db.sql().await;
    run(&sql, OWN_WORDS).await;
    for word in ["completed", "archived", "done", "Erledigt"] {
        insert(&sql, "a", 5, "1").await;
        run(&sql, &format!("update agent_messages set status = '{word}' where status = 'pending'")).await;
    }
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries").await, 0);
    // A trigger of the user's ends the message, when another column changes.
    run(
        &sql,
        "create function ends() returns trigger language plpgsql as $$ begin new.status := 'done'; return new; end $$;
         create trigger ends before update of processed_at on agent_messages for each row execute function ends()",
    )
    .await;
    insert(&sql, "a", 5, "2").await;
    run(&sql, "update agent_messages set processed_at = now() where status = 'pending'; drop trigger ends on agent_messages").await;
    // The message is ended while an agent has it: the agent's outcome comes too late.
    let (_client, mut deliveries) = mesh.builder("a", &token).window(10).connect().await.expect("connects");
    for outcome in ["ack", "fail"] {
        insert(&sql, "a", 5, "3").await;
        let delivery = next(&mut deliveries).await;
        assert_eq!(delivery.payload().to_string(), "3", "nothing that was ended is pushed");
        run(&sql, "update agent_messages set status = 'archived' where status in ('pending', 'delivered')")
            .await;
        match outcome {
            "ack" => delivery.ack_confirmed().await.expect("acknowledged"),
            _ => delivery.fail("no", None).await,
        }
    }
    insert(&sql, "a", 5, "\"end\"").await;
    assert_eq!(until(&mut deliveries, "\"end\"").await, [""; 0], "not pushed again");
    mesh.db.until("select count(*) = 1 from agent_messages where status = 'processed'").await;
    let words = texts(
        &mesh.db.client().await,
        "select string_agg(status, ' ' order by created_at) from agent_messages",
    )
    .await;
    assert_eq!(words, ["completed archived done Erledigt done archived archived processed"]);
    let _ = mesh.stop().await;
}

#[tokio::test]
async fn a_claim_is_no_end() {
    let db = migrated().await;
    let sql = db.sql().await;
    insert(&sql, "a", 5, "1").await;
    run(&sql, "update agent_messages set status = 'delivered'").await;
    let count = "select count(*) from postbell.deliveries";
    assert_eq!(db.ask::<i64>(count).await, 1);
    run(&sql, "update agent_messages set status = 'pending'").await;
    assert_eq!(db.ask::<i64>(count).await, 1, "and giving it back makes no second one");
}

#[tokio::test]
async fn the_doctor_counts_what_has_no_delivery() {
    let db = migrated().await;
    let sql = db.sql().await;
    let said = async || {
        examine(&db.target()).await.into_iter().find(|c| c.check == "deliveries").expect("a check").sentence
    };
    assert!(said().await.starts_with("every message"), "{}", said().await);
    run(&sql, "set session_replication_role = replica").await;
    insert(&sql, "a", 5, "1").await;
    insert(&sql, "a", 5, "2").await;
    let sentence = said().await;
    assert!(sentence.starts_with("2 messages were written while triggers did not fire"), "{sentence}");
}

/// A sweep leaves a row that somebody holds to the next sweep, and does not wait.
#[tokio::test]
async fn a_held_row_does_not_hold_the_sweep() {
    let db = migrated().await;
    let (sql, other) = (db.sql().await, db.sql().await);
    run(&sql, "set session_replication_role = replica").await;
    insert(&sql, "held", 5, "1").await;
    insert(&sql, "free", 5, "2").await;
    run(&other, "begin; select from agent_messages where to_agent_id = 'held' for update").await;
    let broker = Connection::open(&db.target()).await.expect("connects");
    let inboxes = "select inbox from postbell.deliveries order by inbox";
    assert_eq!(number(&broker, "select took from postbell.sweep(10)").await, 1);
    assert_eq!(texts(&broker, inboxes).await, ["free"]);
    run(&other, "commit").await;
    assert_eq!(number(&broker, "select took from postbell.sweep(10)").await, 1);
    assert_eq!(texts(&broker, inboxes).await, ["free", "held"]);
}
