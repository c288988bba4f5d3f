//! A row at which the server process ends, as at a crashing extension: the connection is lost, again and again. The row's change is
//! set aside, or the message becomes a dead letter, and everybody else is served.

use postbell::store::doctor::examine;
use tokio::time::timeout;

use crate::harness::{TestDb, fresh};
use crate::mesh::{Mesh, Raw, insert};
use crate::rehearsal::{owned, owner_url};
use crate::settle::{SERVED, Two, doctor_says};
use crate::standstill::owned_mesh;

/// A trigger that ends the server process where this holds.
fn ends(table: &str, event: &str, holds: &str) -> String {
    format!(
        "create function ends() returns trigger language plpgsql as $$
           begin if {holds} then perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(60); end if; return new; end $$;
         create trigger ends before {event} on {table} for each row execute function ends()"
    )
}

const REASON: &str = "reason like 'the server process ended%'";
pub(crate) const ONLINE: &str = "select status = 'online' and last_heartbeat > now() - interval '60 seconds' from agent_registry where agent_id = ";

#[tokio::test]
async fn an_outcome_at_which_it_ends_is_set_aside_and_all_others_are_written() {
    let holds = "new.payload = '7' and new.status = 'processed'";
    let mut two = Two::after(&ends("agent_messages", "update", holds)).await;
    let mut tags = Vec::new();
    for n in 1..=20 {
        tags.push(two.send_a(&n.to_string()).await["tag"].clone());
    }
    for tag in &tags {
        two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"x"}}"#)).await;
    }
    two.u_is_served().await;
    for _ in 0..20 {
        two.a.expect("acked").await;
    }
    let db = &two.mesh.db;
    db.until("select count(*) = 19 from agent_messages where to_agent_id = 'a' and status = 'processed'")
        .await;
    db.until(&format!("select count(*) = 1 from postbell.set_aside where inbox = 'a' and {REASON}")).await;
    doctor_says(db, &["the server process ended while this row was written"]).await;
    // The row is tried again, and stays where it is, with the same reason.
    db.sql().await.execute("update postbell.set_aside set next_try = now()", &[]).await.expect("due");
    db.until(&format!("select count(*) = 1 from postbell.set_aside where tries > 1 and {REASON}")).await;
    two.u_is_served().await;
    two.mesh.until_ready(true).await;
    let db = two.nothing_comes_again().await;
    assert_eq!(db.ask::<i64>("select count(*) from postbell.set_aside").await, 1);
}

/// An agent that may be silent for long: the other messages of the inbox wait until the one at which the process ends is found.
async fn patient(mesh: &Mesh, agent: &str) -> Raw {
    let token = mesh.db.agent(agent).await;
    let mut raw = Raw::open(mesh.agents).await;
    let hello =
        format!(r#"{{"op":"hello","agent":"{agent}","token":"{token}","window":5,"heartbeat_ms":600000}}"#);
    raw.say(&hello).await;
    raw.expect("welcome").await;
    raw
}

/// The process ends at reading a message with this payload.
const ENDS_READING: &str = "
    create function ends(payload jsonb) returns boolean language plpgsql security definer as $$
      begin if payload ->> 'n' = 'x' then perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(60); end if;
      return true; end $$;
    create policy strict on agent_messages using (ends(payload)) with check (true);
    alter table agent_messages force row level security";

/// No other message waits that could be read and compared with.
#[tokio::test]
async fn a_message_at_whose_reading_it_ends_is_a_dead_letter_also_if_it_is_alone() {
    let (admin, mesh) = owned_mesh().await;
    let sql = admin.sql().await;
    sql.batch_execute(ENDS_READING).await.expect("a policy");
    for to in ["a", "later"] {
        let mut a = if to == "a" { Some(patient(&mesh, to).await) } else { None };
        let alone = format!(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             values ('sql', '{to}', 'data', '{{\"n\": \"x\"}}')"
        );
        sql.batch_execute(&alone).await.expect("inserted");
        if a.is_none() {
            a = Some(patient(&mesh, to).await);
        }
        let dead = format!(
            "select count(*) = 1 from postbell.deliveries
             where inbox = '{to}' and state = 'dead' and last_error like 'unreadable%process ended%'"
        );
        admin.until(&dead).await;
        insert(&sql, to, 5, "8").await;
        assert_eq!(a.expect("connected").expect("msg").await["payload"], 8, "{to}");
    }
    mesh.until_ready(true).await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_message_at_whose_reading_it_ends_is_a_dead_letter_and_its_neighbours_come() {
    let (admin, mesh) = owned_mesh().await;
    let sql = admin.sql().await;
    sql.batch_execute(ENDS_READING).await.expect("a policy");
    let mut u = mesh.raw("u", 50).await;
    for to in ["a", "later"] {
        let rows = format!(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             select 'sql', case when n = 7 then '{to}' else 'u' end, 'data',
                    jsonb_build_object('n', case when n = 7 then 'x' else n::text end)
             from generate_series(1, 20) n"
        );
        // To one that is here, which the tail brings; to one that comes later, which a refill does.
        let mut a = match to {
            "a" => Some(patient(&mesh, to).await),
            _ => None,
        };
        sql.batch_execute(&rows).await.expect("inserted");
        insert(&sql, to, 5, "8").await;
        let served = async {
            for _ in 0..19 {
                let tag = u.expect("msg").await["tag"].clone();
                u.say(&format!(r#"{{"op":"ack","tag":{tag}}}"#)).await;
            }
        };
        timeout(SERVED, served).await.expect("u is served");
        if a.is_none() {
            a = Some(patient(&mesh, to).await);
        }
        assert_eq!(a.expect("connected").expect("msg").await["payload"], 8, "{to}");
    }
    admin
        .until("select count(*) = 2 from postbell.deliveries where state = 'dead' and last_error like 'unreadable%process ended%'")
        .await;
    mesh.until_ready(true).await;
    mesh.stop().await;
}

#[tokio::test]
async fn an_agent_at_whose_row_it_ends_keeps_the_presence_of_no_other() {
    let two = Two::after(&ends("agent_registry", "update", "new.agent_id = 'a'")).await;
    let db = &two.mesh.db;
    db.until(&format!("{ONLINE}'u'")).await;
    db.until(&format!(
        "select count(*) = 1 from postbell.set_aside where kind = 'presence' and inbox = 'a' and {REASON}"
    ))
    .await;
    doctor_says(db, &["presence of 1 agents", "such as a", "the server process ended"]).await;
    let sql = db.sql().await;
    let old = "update agent_registry set last_heartbeat = 'epoch' where agent_id = 'u'";
    sql.execute(old, &[]).await.expect("as if it were long ago");
    db.until(&format!("{ONLINE}'u'")).await;
    two.mesh.until_ready(true).await;
    two.mesh.stop().await;
}

#[tokio::test]
async fn an_agent_whose_row_raises_when_it_is_read_keeps_the_presence_of_no_other() {
    let admin = fresh().await;
    let owner = owned(&admin, &admin.client().await).await;
    postbell::store::migrate::migrate(&owner).await.expect("migrates");
    let tokens = [admin.agent("a").await, admin.agent("u").await];
    let mesh = Mesh::on(TestDb::at(owner_url(&admin)), &[]).await;
    let _a = mesh.raw_with("a", &tokens[0], 5).await;
    let mut u = mesh.raw_with("u", &tokens[1], 5).await;
    admin.until(&format!("{ONLINE}'u'")).await;
    let sql = admin.sql().await;
    sql.batch_execute(
        "create function whole(agent text) returns boolean language plpgsql as $$
           begin if agent = 'a' then raise exception 'no'; end if; return true; end $$;
         create policy strict on agent_registry using (whole(agent_id)) with check (true);
         alter table agent_registry force row level security;
         update agent_registry set last_heartbeat = 'epoch'",
    )
    .await
    .expect("a policy");
    admin.until(&format!("{ONLINE}'u'")).await;
    admin.until("select count(*) = 1 from postbell.set_aside where kind = 'presence' and inbox = 'a'").await;
    insert(&sql, "u", 5, "1").await;
    u.expect("msg").await;
    let checks = examine(&mesh.db.target()).await;
    let agents: Vec<_> = checks.iter().filter(|c| c.check == "agents").map(|c| c.sentence.as_str()).collect();
    assert!(agents.iter().any(|said| said.contains("cannot be read")), "{agents:?}");
    assert!(agents.iter().any(|said| said.contains("registered")), "{agents:?}");
    mesh.stop().await;
}

#[tokio::test]
async fn what_time_ends_ends_beside_it() {
    let holds = "new.to_agent_id = 'gone' and new.status = 'failed'";
    let mut two = Two::after(&ends("agent_messages", "update", holds)).await;
    let sql = two.mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, expires_at)
         select 'sql', case n when 3 then 'gone' else 'away' end, 'data', '1', now() - interval '1 minute'
         from generate_series(1, 9) n",
    )
    .await
    .expect("inserted");
    let db = &two.mesh.db;
    db.until("select count(*) = 8 from agent_messages where to_agent_id = 'away' and status = 'failed'")
        .await;
    db.until(&format!(
        "select count(*) = 1 from postbell.set_aside where kind = 'expired' and inbox = 'gone' and {REASON}"
    ))
    .await;
    assert_eq!(db.ask::<i64>("select count(*) from postbell.deliveries where inbox = 'gone'").await, 0);
    two.u_is_served().await;
    two.mesh.stop().await;
}

#[tokio::test]
async fn a_mark_at_which_it_ends_is_dropped_and_the_others_are_written() {
    let holds = "new.to_agent_id = 'a' and new.status = 'delivered'";
    let mut two = Two::after(&ends("agent_messages", "update", holds)).await;
    let sql = two.mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 'sql', case n % 2 when 0 then 'a' else 'u' end, 'data', '1' from generate_series(1, 6) n",
    )
    .await
    .expect("inserted");
    two.mesh
        .db
        .until("select count(*) = 3 from agent_messages where to_agent_id = 'u' and status = 'delivered'")
        .await;
    for _ in 0..3 {
        two.u.expect("msg").await;
    }
    two.u_is_served().await;
    two.mesh.until_ready(true).await;
    two.mesh.stop().await;
}

#[tokio::test]
async fn an_alert_at_which_it_ends_is_put_off_and_the_others_are_raised() {
    let db = crate::settle::adopted().await;
    let tokens = [db.agent("a").await, db.agent("u").await];
    db.sql()
        .await
        .batch_execute(&ends("agent_alerts", "insert", "new.agent_id = 'a'"))
        .await
        .expect("a trigger");
    let mesh = Mesh::on(db, &[("POSTBELL_OFFLINE_ALERT_SECONDS", "1")]).await;
    let both = [mesh.raw_with("a", &tokens[0], 5).await, mesh.raw_with("u", &tokens[1], 5).await];
    for agent in ["a", "u"] {
        mesh.db.until(&format!("{ONLINE}'{agent}'")).await;
    }
    drop(both);
    mesh.db.until("select count(*) = 1 from agent_alerts where agent_id = 'u'").await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_alerts where agent_id = 'a'").await, 0);
    mesh.stop().await;
}
