//! Columns that became computed by the table while brokers use it.

use postbell::store::doctor::{Level, examine};
use serde_json::Value;
use tokio::time::timeout;

use super::{SERVED, Two};
use crate::harness::TestDb;

const SEND: &str = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                    values ('sql', $1, 'data', $2::text::jsonb)";

/// `postbell doctor` names the generated column in a finding that is not ok.
pub(super) async fn doctor_names(db: &TestDb, column: &str) {
    let checks = examine(&db.target()).await;
    let name = format!("column {column} is generated");
    let names = |c: &&postbell::store::doctor::Check| c.level != Level::Ok && c.sentence.contains(&name);
    assert!(checks.iter().any(|c| names(&c)), "doctor does not say that the {name}: {checks:?}");
}

/// Sends as a producer that leaves the priority to the table.
async fn sent(two: &mut Two, to_a: bool, payload: &str) -> Value {
    let to = if to_a { "a" } else { "u" };
    two.mesh.db.sql().await.execute(SEND, &[&to, &payload]).await.expect("inserts");
    let agent = if to_a { &mut two.a } else { &mut two.u };
    timeout(SERVED, agent.expect("msg")).await.expect("served")
}

/// Sends as the agent `a`, and returns what `u` got.
pub(super) async fn sent_by_agent(two: &mut Two) -> Value {
    two.a
        .say(r#"{"op":"send","ref":"1","to":"u","type":"data","payload":1,"priority":2,"dedupe_key":"k"}"#)
        .await;
    let sent = timeout(SERVED, two.a.expect("sent")).await.expect("stored");
    let msg = timeout(SERVED, two.u.expect("msg")).await.expect("served");
    assert_eq!(msg["id"], sent["id"]);
    let ack = format!(r#"{{"op":"ack","tag":{},"ref":"sent"}}"#, msg["tag"]);
    two.u.say(&ack).await;
    two.u.expect("acked").await;
    msg
}

#[tokio::test]
async fn a_generated_priority_keeps_nobody_from_acknowledging_or_being_here() {
    let mut two = Two::after(
        "alter table agent_messages drop column priority cascade;
         alter table agent_messages add priority int generated always as (2 + 2) stored",
    )
    .await;
    let tag = sent(&mut two, false, "1").await["tag"].clone();
    two.u.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"u"}}"#)).await;
    two.u.expect("acked").await;
    let msg = sent(&mut two, true, "2").await;
    assert_eq!(msg["priority"], 4);
    two.a.say(&format!(r#"{{"op":"nack","tag":{},"outcome":"dead","reason":"no"}}"#, msg["tag"])).await;
    two.mesh.db.until("select status = 'failed' from agent_messages where to_agent_id = 'a'").await;
    let done = "select status from agent_messages where to_agent_id = 'u'";
    assert_eq!(two.mesh.db.ask::<String>(done).await, "processed");
    // The table's priority counts also for a message that an agent sends.
    assert_eq!(sent_by_agent(&mut two).await["priority"], 4);
    doctor_names(&two.mesh.db, "priority").await;
    let here = "select count(*) = 2 from agent_registry where agent_id in ('a', 'u') and status = 'online'";
    two.mesh.db.until(here).await;
    assert_eq!(two.mesh.db.ask::<i64>("select count(*) from postbell.set_aside").await, 0);
    two.mesh.until_ready(true).await;
    two.nothing_comes_again().await;
}

/// A message of another type would be another message.
#[tokio::test]
async fn an_agents_send_is_refused_by_name_if_the_table_computes_what_the_message_says() {
    let mut two = Two::after(
        "alter table agent_messages drop column message_type cascade;
         alter table agent_messages add message_type text generated always as ('data') stored",
    )
    .await;
    two.a.say(r#"{"op":"send","ref":"1","to":"u","type":"query","payload":1}"#).await;
    let refused = two.a.expect_error("rejected", false).await;
    assert!(refused["message"].as_str().unwrap_or_default().contains("message_type"), "{refused}");
    doctor_names(&two.mesh.db, "message_type").await;
}
