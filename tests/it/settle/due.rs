//! Deliveries whose rows take no change when their time has come, when they were restored, or when they are set aside.

use tokio::time::timeout;

use super::{SERVED, Two};
use crate::harness::TRIGGER_FAULTS;

#[tokio::test]
async fn one_that_takes_no_change_is_the_only_one_that_waits() {
    for body in TRIGGER_FAULTS {
        let mut two = Two::after("").await;
        let sql = two.mesh.db.sql().await;
        let trigger = format!(
            "create function hurts() returns trigger language plpgsql as $$
             begin
               if old.state = 'scheduled' and new.state = 'ready' and old.inbox = 'a' then {body}; end if;
               return new;
             end $$;
             create trigger hurts before update on postbell.deliveries for each row execute function hurts()"
        );
        sql.batch_execute(&trigger).await.expect("a trigger");
        let retry = r#""op":"nack","outcome":"fail","delay_ms":50,"reason":"later","#;
        let tag = two.send_a("1").await["tag"].clone();
        two.a.say(&format!(r#"{{{retry}"tag":{tag}}}"#)).await;
        two.mesh.until_told("deliveries whose time has come take no change").await;
        for n in 0..3 {
            crate::mesh::insert(&sql, "u", 5, "1").await;
            let tag = two.u.expect("msg").await["tag"].clone();
            two.u.say(&format!(r#"{{{retry}"tag":{tag}}}"#)).await;
            let again = timeout(SERVED, two.u.expect("msg")).await;
            let again = again.unwrap_or_else(|_| panic!("u's try {n} waits: {body}"));
            two.u.say(&format!(r#"{{"op":"ack","tag":{},"ref":"u"}}"#, again["tag"])).await;
            two.u.expect("acked").await;
        }
        assert!(two.mesh.until_ready(true).await.contains("take no change"), "{body}");
        two.mesh.stop().await;
    }
}

/// A delivery of another cluster's transaction, from a dump. The tail would make it this cluster's.
#[tokio::test]
async fn one_that_was_restored_and_takes_no_change_keeps_the_tail_from_nobody() {
    let mut two = Two::after(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ('sql', 'a', 'data', '1');
         update postbell.deliveries set txid = '9000000000' where inbox = 'a';
         create function hurts() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
         create trigger hurts before update on postbell.deliveries for each row when (old.inbox = 'a')
         execute function hurts()",
    )
    .await;
    two.u_is_served().await;
    two.u_is_served().await;
    two.mesh.until_ready(true).await;
}

/// A trigger keeps the status out without an error, and one message of the batch cannot be set aside either.
#[tokio::test]
async fn one_that_cannot_be_set_aside_keeps_that_from_no_other() {
    let mut two = Two::after(
        "create function keeps_out() returns trigger language plpgsql as
           $$ begin if new.status = 'processed' then return null; end if; return new; end $$;
         create trigger keeps_out before update on agent_messages for each row execute function keeps_out();
         create function hurts() returns trigger language plpgsql as $$ begin
           if exists (select from agent_messages m where m.message_id = new.message_id and m.payload = '1') then raise 'no'; end if;
           return new; end $$;
         create trigger hurts before insert on postbell.set_aside for each row execute function hurts()",
    )
    .await;
    let mut tags = Vec::new();
    for payload in ["1", "2", "3"] {
        tags.push(two.send_a(payload).await["tag"].to_string());
    }
    two.a.say(&format!(r#"{{"op":"ack","tags":[{}],"ref":"a"}}"#, tags.join(","))).await;
    timeout(SERVED, two.a.expect("acked")).await.expect("settled");
    two.mesh.db.until("select count(*) = 2 from postbell.set_aside where inbox = 'a'").await;
    two.u_is_served().await;
}
