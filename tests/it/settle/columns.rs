//! Columns that became computed by the table while brokers use it.

use serde_json::Value;
use tokio::time::timeout;

use super::{SERVED, Two};

const SEND: &str = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                    values ('sql', $1, 'data', $2::text::jsonb)";

/// Sends as a producer that leaves the priority to the table.
async fn sent(two: &mut Two, to_a: bool, payload: &str) -> Value {
    let to = if to_a { "a" } else { "u" };
    two.mesh.db.sql().await.execute(SEND, &[&to, &payload]).await.expect("inserts");
    let agent = if to_a { &mut two.a } else { &mut two.u };
    timeout(SERVED, agent.expect("msg")).await.expect("served")
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
    // An agent's send is refused with the column's name; nothing else is refused.
    two.a.say(r#"{"op":"send","ref":"1","to":"u","type":"data","payload":1}"#).await;
    let refused = two.a.expect_error("rejected", false).await;
    assert!(refused["message"].as_str().unwrap_or_default().contains("priority"), "{refused}");
    let here = "select count(*) = 2 from agent_registry where agent_id in ('a', 'u') and status = 'online'";
    two.mesh.db.until(here).await;
    assert_eq!(two.mesh.db.ask::<i64>("select count(*) from postbell.set_aside").await, 0);
    two.mesh.until_ready(true).await;
    two.nothing_comes_again().await;
}
