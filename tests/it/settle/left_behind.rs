//! Triggers that leave a setting behind on the broker's connection: `set role`, `set_config(…, false)`. The setting outlives the
//! trigger's statement, and statements for everybody else would run under it.

use tokio::time::timeout;

use super::{SERVED, Two};

/// Settings under which no statement of the broker finds its tables, or may write them.
const SETTINGS: [(&str, &str); 2] = [("search_path", ""), ("role", "authenticated")];

fn leaves_behind(event: &str, table: &str, whom: &str, (name, value): (&str, &str)) -> String {
    format!(
        "create function leaves_behind() returns trigger language plpgsql as $$ begin
           if new.{whom} = 'a' then perform set_config('{name}', '{value}', false); end if;
           return new; end $$;
         create trigger leaves_behind before {event} on {table} for each row execute function leaves_behind();"
    )
}

#[tokio::test]
async fn of_an_ack_it_is_nobody_elses() {
    for setting in SETTINGS {
        let mut two = Two::after(&leaves_behind("update", "agent_messages", "to_agent_id", setting)).await;
        for payload in ["1", "2"] {
            let tag = two.send_a(payload).await["tag"].clone();
            two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"a"}}"#)).await;
            timeout(SERVED, two.a.expect("acked")).await.expect("settled");
            two.u_is_served().await;
            two.u_is_served().await;
        }
        let done = "select count(*) = 4 from agent_messages where to_agent_id = 'u' and status = 'processed'";
        timeout(SERVED, two.mesh.db.until(done)).await.expect("written");
        two.mesh.until_ready(true).await;
        two.nothing_comes_again().await;
    }
}

#[tokio::test]
async fn of_a_send_it_is_nobody_elses() {
    for setting in SETTINGS {
        let mut two = Two::after(&leaves_behind("insert", "agent_messages", "from_agent_id", setting)).await;
        for n in 0..3 {
            let send =
                |of: &str| format!(r#"{{"op":"send","ref":"{of}{n}","to":"c","type":"data","payload":1}}"#);
            two.a.say(&send("a")).await;
            timeout(SERVED, two.a.expect("sent")).await.expect("stored");
            two.u.say(&send("u")).await;
            timeout(SERVED, two.u.expect("sent")).await.expect("stored");
        }
    }
}

#[tokio::test]
async fn of_an_agents_presence_it_is_nobody_elses() {
    for setting in SETTINGS {
        let two = Two::after(&leaves_behind("update", "agent_registry", "agent_id", setting)).await;
        for n in 0..3 {
            let name = format!("b{n}");
            let here = format!("select status = 'online' from agent_registry where agent_id = '{name}'");
            let _b = two.mesh.raw(&name, 5).await;
            timeout(SERVED, two.mesh.db.until(&here)).await.expect("here");
        }
        two.mesh.until_ready(true).await;
    }
}
