//! Alerts whose details are dear to read, or whose times are no times: whoever raises them costs nobody else anything.

use super::odd::all_answer;
use super::{huge_numbers, served};
use crate::mesh::{Mesh, Raw};
use crate::policies::{as_agent, closed, one, try_as};
use crate::status::VIEWER;

const SETTINGS: &[(&str, &str)] =
    &[("POSTBELL_VIEWER_TOKEN", "a viewer's token of a test"), ("POSTBELL_ESCALATE_SECONDS", "1")];

/// As SQL, and whether its message is too large to be pushed. To an orchestrator those of more than 64 kB are told cut short.
fn details() -> Vec<(String, bool)> {
    let written = |json: &str| format!("'{json}'::jsonb");
    vec![
        (written(&huge_numbers(8_192)), true),
        ("null".to_owned(), false),
        (written("null"), false),
        ("to_jsonb(repeat('x', 60000000))".to_owned(), true),
        (written(&huge_numbers(1)), false),
        (written(&format!("{{\"a\": [0e-16383, {}]}}", huge_numbers(4_000))), true),
        (written("{\"rule\": \"not null\"}"), false),
    ]
}

fn raise(details: &str) -> String {
    format!(
        "insert into agent_alerts (agent_id, alert_type, severity, message, details)
         values ('a', 't', 'high', 'm', {details})"
    )
}

/// The next line is a message of this topic. Not read as JSON: no number of this language holds what is in some of them.
async fn is_of(raw: &mut Raw, topic: &str) {
    let line = raw.line().await.expect("a message");
    let (op, topic) = (r#""op":"msg""#, format!(r#""topic":"{topic}""#));
    assert!(line.contains(op) && line.contains(&topic), "{}", line.get(..300).unwrap_or(&line));
}

#[tokio::test]
async fn an_alert_of_any_cost_is_kept_and_told_or_dead_and_everybody_else_is_served() {
    let db = closed().await;
    db.sql().await.batch_execute("delete from agent_messages").await.expect("only alerts");
    let mesh = Mesh::on(db, SETTINGS).await;
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let boss = mesh.db.agent_as("boss", Some("orchestrator")).await;
    let mut boss = mesh.raw_with("boss", &boss, 100).await;
    let mut pager = mesh.raw("pager", 100).await;
    pager.say(r#"{"op":"subscribe","ref":"s","topic":"alerts.high"}"#).await;
    pager.expect("subscribed").await;
    let all = details();
    for (details, _) in &all {
        assert_eq!(as_agent(&mesh.db, "a", &raise(details)).await, one());
        served(&mesh, &mut uninvolved, "beside it").await;
    }
    // Only the service writes these: times that no clock shows.
    for (created, acknowledged) in
        [("'-infinity'", "null"), ("'infinity'", "null"), ("null", "'-infinity'"), ("now()", "'infinity'")]
    {
        let odd = format!(
            "insert into agent_alerts (agent_id, alert_type, severity, message, created_at, acknowledged_at, resolved_at)
             values ('a', 't', 'high', 'm', {created}, {acknowledged}, {acknowledged})"
        );
        assert_eq!(try_as(&mesh.db, "service_role", "", &odd).await, one());
    }
    served(&mesh, &mut uninvolved, "beside odd times").await;
    let dead = all.iter().filter(|(_, is_large)| *is_large).count();
    let told = all.len() + 4 - dead;
    for _ in 0..told {
        is_of(&mut pager, "alerts.high").await;
    }
    // Nobody acknowledged any of them: they go to the orchestrator. Only one of the large ones is small before it is text.
    mesh.until_metric("postbell_alerts_escalated_total", |n| n == (told + dead) as f64).await;
    for _ in 0..told + dead - 1 {
        is_of(&mut boss, "alerts.escalated").await;
    }
    let cut =
        "select count(*) from agent_messages where to_agent_id = 'boss' and payload ->> 'cut_short' = 'true'
               and payload ->> 'message' = 'm' and not payload ? 'details'";
    assert_eq!(mesh.db.ask::<i64>(cut).await, 2);
    for (inbox, dead) in [("pager", dead), ("boss", 1)] {
        let query = format!(
            "select count(*) = {dead} from postbell.deliveries
             where inbox = '{inbox}' and state = 'dead' and last_error like 'payload_too_large%' and attempt = 0"
        );
        mesh.db.until(&query).await;
    }
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_alerts").await, (told + dead) as i64);
    served(&mesh, &mut uninvolved, "after the escalation").await;
    all_answer(&mesh).await;
    let (_, shown) = crate::status::get(&mesh, "/api/mesh", &[VIEWER]).await;
    assert!(!shown.is_null());
    mesh.until_metric("postbell_alerts{severity=\"high\",status=\"active\"}", |n| n > 0.0).await;
    // Their end is told as their beginning was.
    let end = "update agent_alerts set status = 'resolved', resolved_at = 'infinity'";
    assert_eq!(as_agent(&mesh.db, "boss", end).await, Ok(vec![(told + dead).to_string()]));
    served(&mesh, &mut uninvolved, "after their end").await;
    all_answer(&mesh).await;
    mesh.stop().await;
}

/// By the protocol an alert is a message like any other.
#[tokio::test]
async fn an_agent_that_sends_such_an_alert_is_refused() {
    let mesh = Mesh::with(SETTINGS).await;
    let (_u, mut uninvolved) = mesh.connect("u", 5).await;
    let mut a = mesh.raw("a", 5).await;
    let send = |details: &str| {
        format!(
            r#"{{"op":"send","ref":"x","topic":"alerts.high","type":"alert","payload":{{"details":{details}}}}}"#
        )
    };
    a.say(&send(&huge_numbers(8_192))).await;
    assert_eq!(a.expect_error("payload_too_large", false).await["ref"], "x");
    a.say(&send("null")).await;
    a.expect("sent").await;
    served(&mesh, &mut uninvolved, "after both").await;
    mesh.stop().await;
}

/// One that the table does not take stands in no other's way.
#[tokio::test]
async fn an_alert_that_cannot_be_told_delays_no_other() {
    let mesh = Mesh::with(SETTINGS).await;
    let boss = mesh.db.agent_as("boss", Some("orchestrator")).await;
    let mut boss = mesh.raw_with("boss", &boss, 100).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "create function refuses() returns trigger language plpgsql as $$ begin
           if new.topic = 'alerts.escalated' and new.payload ->> 'message' = 'no' then raise exception 'no'; end if;
           return new; end $$;
         create trigger refuses before insert on agent_messages for each row execute function refuses();
         insert into agent_alerts (agent_id, alert_type, severity, message)
         select 'a', 't', 'high', case when n = 7 then 'no' else n::text end from generate_series(1, 20) n",
    )
    .await
    .expect("raised");
    let mut told = Vec::new();
    for _ in 0..19 {
        let message = boss.expect("msg").await;
        assert_eq!(message["topic"], "alerts.escalated", "{message}");
        told.push(
            message["payload"]["message"].as_str().and_then(|n| n.parse::<i32>().ok()).expect("a number"),
        );
    }
    told.sort_unstable();
    assert_eq!(told, (1..=20).filter(|n| *n != 7).collect::<Vec<_>>());
    // Once the table takes it, it is told as well.
    sql.batch_execute("drop trigger refuses on agent_messages").await.expect("dropped");
    assert_eq!(boss.expect("msg").await["payload"]["message"], "no");
    mesh.stop().await;
}

/// One absence whose alert the table does not take stands in no other's way.
#[tokio::test]
async fn an_absence_that_cannot_become_an_alert_delays_no_other() {
    let mesh = Mesh::with(&[("POSTBELL_OFFLINE_ALERT_SECONDS", "1")]).await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "create function refuses() returns trigger language plpgsql as $$ begin
           if new.agent_id = 'a7' then raise exception 'no'; end if;
           return new; end $$;
         create trigger refuses before insert on agent_alerts for each row execute function refuses();",
    )
    .await
    .expect("made");
    let mut gone = Vec::new();
    for n in 0..20 {
        gone.push(mesh.raw(&format!("a{n}"), 5).await);
    }
    mesh.db
        .until("select count(*) = 20 from agent_registry where status = 'online' and agent_id like 'a%'")
        .await;
    drop(gone);
    mesh.db.until("select count(*) = 19 from agent_alerts where alert_type = 'agent_offline'").await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_alerts where agent_id = 'a7'").await, 0);
    mesh.stop().await;
}
