//! Triggers that leave the broker's connection as it was not: `set role`, `set_config(…, false)`, `deallocate all`. That outlives
//! the trigger's statement, and statements for everybody else would meet it.

use tokio::time::timeout;

use super::{SERVED, Two};

/// With the first, no statement of the broker finds its tables, or may write them; with the last, none is prepared.
const LEFT: [&str; 7] = [
    "perform set_config('search_path', '', false)",
    "perform set_config('role', 'authenticated', false)",
    "perform set_config('default_transaction_read_only', 'on', false)",
    "perform set_config('default_transaction_isolation', 'serializable', false)",
    "perform set_config('row_security', 'off', false)",
    "perform set_config('postbell.broker', '', false)",
    "execute 'deallocate all'",
];

fn leaves_behind(event: &str, table: &str, whom: &str, left: &str) -> String {
    format!(
        "create function leaves_behind() returns trigger language plpgsql as $$ begin
           if new.{whom} = 'a' then {left}; end if;
           return new; end $$;
         create trigger leaves_behind before {event} on {table} for each row execute function leaves_behind();"
    )
}

#[tokio::test]
async fn of_an_ack_it_is_nobody_elses() {
    for left in LEFT {
        let mut two = Two::after(&leaves_behind("update", "agent_messages", "to_agent_id", left)).await;
        for payload in ["1", "2"] {
            let tag = two.send_a(payload).await["tag"].clone();
            two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"a"}}"#)).await;
            timeout(SERVED, two.a.expect("acked")).await.expect(left);
            two.u_is_served().await;
            two.u_is_served().await;
        }
        let done = "select count(*) = 4 from agent_messages where to_agent_id = 'u' and status = 'processed'";
        timeout(SERVED, two.mesh.db.until(done)).await.expect(left);
        two.mesh.until_ready(true).await;
        two.nothing_comes_again().await;
    }
}

#[tokio::test]
async fn of_a_send_it_is_nobody_elses() {
    for left in LEFT {
        let mut two = Two::after(&leaves_behind("insert", "agent_messages", "from_agent_id", left)).await;
        for n in 0..3 {
            let send =
                |of: &str| format!(r#"{{"op":"send","ref":"{of}{n}","to":"c","type":"data","payload":1}}"#);
            two.a.say(&send("a")).await;
            timeout(SERVED, two.a.expect("sent")).await.expect(left);
            two.u.say(&send("u")).await;
            timeout(SERVED, two.u.expect("sent")).await.expect(left);
        }
    }
}

#[tokio::test]
async fn of_an_agents_presence_it_is_nobody_elses() {
    for left in LEFT {
        let two = Two::after(&leaves_behind("update", "agent_registry", "agent_id", left)).await;
        for n in 0..3 {
            let name = format!("b{n}");
            let here = format!("select status = 'online' from agent_registry where agent_id = '{name}'");
            let _b = two.mesh.raw(&name, 5).await;
            timeout(SERVED, two.mesh.db.until(&here)).await.expect("here");
        }
        two.mesh.until_ready(true).await;
    }
}
