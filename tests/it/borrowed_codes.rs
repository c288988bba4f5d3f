//! A trigger that raises a code that the server uses when it is read only, full, or going away, for the rows of one agent alone. The
//! code is borrowed: that row is set aside, and everybody else is served. A server that means it blames no row.
//!
//! A failure names the code; `POSTBELL_BORROWED=all` tries every code of the list.

use futures_util::future::join_all;
use tokio::time::timeout;

use crate::cut_off::ONLINE;
use crate::harness::TestDb;
use crate::mesh::{Mesh, get};
use crate::settle::{SERVED, adopted, doctor_says};

/// A code of each class that says it will pass, and what a trigger does that makes its own transaction read only.
const BORROWED: &[&str] = &[
    "08006", "25006", "40001", READ_ONLY, "53100", "57P03", "08003", "25P03", "40P01", "53300", "55006",
    "57P01", "58030", "72000", "F0000",
];
const READ_ONLY: &str = "read only";
/// As many are tried each time.
const TRIED: usize = 4;

/// A row of each duty, all of them one agent's, at which a trigger raises: the table, the event, the condition.
const DUTIES: &[(&str, &str, &str)] = &[
    ("agent_registry", "update", "new.agent_id = 'a'"),
    ("agent_messages", "update", "new.to_agent_id = 'a' and new.status = 'delivered'"),
    ("agent_messages", "update", "new.to_agent_id = 'gone' and new.status = 'failed'"),
    ("agent_messages", "delete", "old.to_agent_id = 'gone'"),
    ("agent_alerts", "insert", "new.agent_id = 'c'"),
    ("agent_alerts", "update", "new.agent_id = 'told'"),
    ("agent_messages", "insert", "new.to_agent_id = 'bad'"),
];

fn triggers(code: &str) -> String {
    let act = match code {
        READ_ONLY => "perform set_config('transaction_read_only', 'on', true);".to_owned(),
        code => format!("raise exception 'no' using errcode = '{code}';"),
    };
    let one = |(n, (table, event, holds)): (usize, &(&str, &str, &str))| {
        let row = if *event == "delete" { "old" } else { "new" };
        format!(
            "create function borrowed{n}() returns trigger language plpgsql as $$
               begin if {holds} then {act} end if; return {row}; end $$;
             create trigger borrowed{n} before {event} on {table} for each row execute function borrowed{n}();"
        )
    };
    DUTIES.iter().enumerate().map(one).collect()
}

const DROPPED: &str = "drop function borrowed0(), borrowed1(), borrowed2(), borrowed3(), borrowed4(), borrowed5(), borrowed6() cascade";

/// Messages that are kept no longer. Such are looked for at the start, and then seldom.
const OLD: &str = "
    insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, status, created_at, processed_at)
    select 'sql', t, 'data', '2', 'processed', now() - interval '9 days', now() - interval '9 days'
    from unnest(array['gone', 'away']) t";
/// Messages that expired, messages to be marked, and alerts that nobody acknowledges.
const ROWS: &str = "
    insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, expires_at)
      select 'sql', t, 'data', '1', now() - interval '1 minute' from unnest(array['gone', 'away']) t;
    insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
      select 'sql', t, 'data', '1' from unnest(array['a', 'u']) t, generate_series(1, 3);
    insert into agent_alerts (agent_id, alert_type, severity, message)
      select t, 'x', 'low', 'x' from unnest(array['told', 'other']) t;";

const EAGER: &[(&str, &str)] = &[("POSTBELL_OFFLINE_ALERT_SECONDS", "1"), ("POSTBELL_ESCALATE_SECONDS", "1")];

#[tokio::test]
async fn a_code_that_says_it_will_pass_is_one_rows_while_the_server_writes() {
    let all = std::env::var("POSTBELL_BORROWED").is_ok();
    let codes = BORROWED.iter().take(if all { BORROWED.len() } else { TRIED });
    join_all(codes.map(|code| one_is_borrowed(code))).await;
}

async fn one_is_borrowed(code: &str) {
    let db = adopted().await;
    let mut tokens = Vec::new();
    for agent in ["a", "u", "c", "d"] {
        tokens.push(db.agent(agent).await);
    }
    let sql = db.sql().await;
    sql.batch_execute(&triggers(code)).await.expect("triggers");
    sql.batch_execute(OLD).await.expect("old messages");
    let mesh = Mesh::on(db, EAGER).await;
    let db = &mesh.db;
    let mut a = mesh.raw_with("a", &tokens[0], 100).await;
    let mut u = mesh.raw_with("u", &tokens[1], 100).await;
    let away = [mesh.raw_with("c", &tokens[2], 5).await, mesh.raw_with("d", &tokens[3], 5).await];
    for agent in ["u", "c", "d"] {
        db.until(&format!("{ONLINE}'{agent}' -- {code}")).await;
    }
    drop(away);
    sql.batch_execute(ROWS).await.expect("rows");
    let until = async |query: &str| db.until(&format!("{query} -- {code}")).await;
    // Presence, again and again: the next heartbeats are looked for below.
    sql.execute("update agent_registry set last_heartbeat = 'epoch' where agent_id = 'u'", &[])
        .await
        .unwrap();
    // Expiry, marks and retention.
    until("select count(*) = 1 from agent_messages where to_agent_id = 'away' and status = 'failed'").await;
    until("select count(*) = 0 from postbell.deliveries where inbox in ('gone', 'away')").await;
    until("select count(*) = 3 from agent_messages where to_agent_id = 'u' and status = 'delivered'").await;
    until("select count(*) = 0 from agent_messages where to_agent_id = 'away' and payload = '2'").await;
    // Alerts and their escalation.
    until("select count(*) = 1 from agent_alerts where agent_id = 'd'").await;
    until("select count(*) = 1 from agent_alerts where agent_id = 'other' and escalated_at is not null")
        .await;
    until(&format!("{ONLINE}'u'")).await;
    let served = async {
        for _ in 0..3 {
            a.expect("msg").await;
            u.expect("msg").await;
        }
    };
    timeout(SERVED, served).await.expect("both are served");
    // Sends: `a`'s are never rejected, and cost `u`'s nothing.
    for n in 0..5 {
        a.say(&format!(r#"{{"op":"send","ref":"{n}","to":"bad","type":"data","payload":1}}"#)).await;
        u.say(&format!(r#"{{"op":"send","ref":"{n}","to":"nobody","type":"data","payload":1}}"#)).await;
    }
    let sent = async {
        for _ in 0..5 {
            u.expect("sent").await;
        }
    };
    timeout(SERVED, sent).await.expect("u's sends are stored");
    for _ in 0..5 {
        a.expect_error("unavailable", false).await;
    }
    assert_eq!(get(mesh.http, "/health/ready").await.0, 200, "{code}");
    if code != READ_ONLY {
        let noted =
            "select count(*) = 2 from postbell.set_aside where inbox in ('a', 'gone') and reason like ";
        until(&format!("{noted}'%SQLSTATE {code}%'")).await;
        doctor_says(db, &["presence of 1 agents", "such as a", code]).await;
    }
    sql.batch_execute(DROPPED).await.expect("dropped");
    all_is_well_again(db).await;
    mesh.until_ready(true).await;
    mesh.stop().await;
}

async fn all_is_well_again(db: &TestDb) {
    let sql = db.sql().await;
    sql.batch_execute(
        "update postbell.set_aside set next_try = now();
         update agent_registry set last_heartbeat = 'epoch' where agent_id = 'a'",
    )
    .await
    .expect("due");
    db.until(&format!("{ONLINE}'a'")).await;
    db.until("select count(*) = 0 from postbell.set_aside where kind <> 'presence'").await;
    db.until(
        "select count(*) = 2 from agent_messages where to_agent_id in ('gone', 'away') and status = 'failed'",
    )
    .await;
}

/// Every table refuses the broker's writes, Postbell's own, too.
fn refuses_all(code: &str) -> String {
    format!(
        "create function refuses() returns trigger language plpgsql as $$
           begin if current_setting('postbell.broker', true) = 'on' then raise exception 'no' using errcode = '{code}'; end if;
           return null; end $$;
         do $$ declare t regclass; begin
           for t in select oid from pg_class where relkind = 'r' and relnamespace in ('public'::regnamespace, 'postbell'::regnamespace) loop
             execute format('create trigger refuses before insert or update or delete on %s execute function refuses()', t);
           end loop; end $$"
    )
}

#[tokio::test]
async fn a_server_that_takes_no_writes_blames_no_row() {
    join_all(["25006", "53100", "40001"].map(none_is_written)).await;
}

async fn none_is_written(code: &str) {
    let db = adopted().await;
    let tokens = [db.agent("a").await, db.agent("u").await];
    let mesh = Mesh::on(db, EAGER).await;
    let db = &mesh.db;
    let a = mesh.raw_with("a", &tokens[0], 5).await;
    let mut u = mesh.raw_with("u", &tokens[1], 5).await;
    db.until(&format!("{ONLINE}'u'")).await;
    let sql = db.sql().await;
    sql.batch_execute(&refuses_all(code)).await.expect("it refuses all");
    drop(a);
    u.say(r#"{"op":"send","to":"u","type":"data","payload":1}"#).await;
    u.expect_error("unavailable", false).await;
    sql.batch_execute(ROWS).await.expect("rows of somebody else's");
    for duty in ["expiry", "escalation", "presence"] {
        let stands = format!("postbell_standstill_seconds{{duty=\"{duty}\"}}");
        mesh.until_metric(&stands, |seconds| seconds >= 5.0).await;
    }
    let told = mesh.until_ready(false).await;
    assert!(told.contains(code), "{told}");
    assert_eq!(db.ask::<i64>("select count(*) from postbell.set_aside").await, 0, "{code}");
    sql.batch_execute("drop function refuses() cascade").await.expect("it writes again");
    db.until(
        "select count(*) = 2 from agent_messages where to_agent_id in ('gone', 'away') and status = 'failed'",
    )
    .await;
    db.until("select count(*) = 2 from agent_alerts where escalated_at is not null and alert_type = 'x'")
        .await;
    assert_eq!(db.ask::<i64>("select count(*) from postbell.set_aside").await, 0, "{code}");
    mesh.until_ready(true).await;
    mesh.stop().await;
}
