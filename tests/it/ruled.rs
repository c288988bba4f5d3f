//! Rules of the user's on `agent_messages`: what agents send is stored all the same, and the rule is named.

use postbell::store::doctor::{Level, examine};
use postbell_client::Client;
use tokio::time::timeout;
use uuid::Uuid;

use crate::held_sends::{refused, to};
use crate::mesh::{Mesh, PATIENCE};

const AUDIT: &str = "create table audit (message_id uuid);
                     create rule audited as on insert to agent_messages do also insert into audit values (new.message_id)";

async fn sends(client: &Client, recipient: &str, key: &str) -> Uuid {
    let send = client.send(to(recipient, &1).dedupe_key(key));
    timeout(PATIENCE, send).await.expect("answered").expect("stored")
}

#[tokio::test]
async fn what_agents_send_is_stored_once_whatever_rules_there_are() {
    for rule in [
        AUDIT,
        "create rule beside as on update to agent_messages do also select 1",
        "create rule never as on update to agent_messages do instead nothing",
        "create rule keeper as on insert to agent_messages where new.to_agent_id = 'kept' do instead nothing",
    ] {
        let mesh = Mesh::start().await;
        let (a, _) = mesh.connect("a", 0).await;
        let (u, _) = mesh.connect("u", 0).await;
        // The insert is prepared before there is a rule.
        let first = sends(&a, "r", "before").await;
        mesh.db.sql().await.batch_execute(rule).await.expect(rule);
        assert_eq!(sends(&a, "r", "before").await, first, "{rule}");
        let then = sends(&a, "r", "then").await;
        assert_eq!(sends(&a, "r", "then").await, then, "{rule}");
        assert_ne!(sends(&u, "r", "then").await, then, "another sender's key: {rule}");
        // Several in one batch, of which two are the same.
        let mut receipts = Vec::new();
        for n in 0..20 {
            receipts.push(a.submit(to("r", &n).dedupe_key(&format!("k{}", n % 10))).await.unwrap());
        }
        let mut ids = Vec::new();
        for receipt in receipts {
            ids.push(timeout(PATIENCE, receipt.committed()).await.expect("answered").expect("stored"));
        }
        assert_eq!(ids[..10], ids[10..], "{rule}");
        for n in 0..3 {
            timeout(PATIENCE, u.send(to("r", &n))).await.expect("answered").expect("stored");
        }
        let stored = "select count(*) from agent_messages m join postbell.deliveries d using (message_id)
                      where m.to_agent_id = 'r' and d.inbox = 'r'";
        assert_eq!(mesh.db.ask::<i64>(stored).await, 1 + 2 + 10 + 3, "{rule}");
        if rule == AUDIT {
            let once = "select count(*) from agent_messages left join audit using (message_id)
                        where audit.message_id is null or to_agent_id is null";
            assert_eq!(mesh.db.ask::<i64>(once).await, 1, "all but the first were audited");
            assert_eq!(mesh.db.ask::<i64>("select count(*) from audit").await, 2 + 10 + 3);
        }
        mesh.stop().await;
    }
}

/// Two transactions with one key meet at the unique index.
#[tokio::test]
async fn a_key_whose_transaction_is_open_is_waited_for() {
    let mesh = Mesh::start().await;
    mesh.db.sql().await.batch_execute(AUDIT).await.unwrap();
    let (a, _) = mesh.connect("a", 0).await;
    let sql = mesh.db.sql().await;
    let open =
        "begin; insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, dedupe_key)
                values ('a', 'r', 'data', '1', 'k')";
    sql.batch_execute(open).await.unwrap();
    let waits = a.submit(to("r", &1).dedupe_key("k")).await.unwrap();
    timeout(PATIENCE, a.send(to("r", &2))).await.expect("answered").expect("others go on");
    sql.batch_execute("commit").await.unwrap();
    let id = timeout(PATIENCE, waits.committed()).await.expect("answered").expect("stored");
    let first = "select message_id from agent_messages where dedupe_key = 'k'";
    assert_eq!(mesh.db.ask::<Uuid>(first).await, id);
}

#[tokio::test]
async fn what_is_kept_out_is_refused_alone_and_the_answer_says_why() {
    let keeper = "create function keep() returns trigger language plpgsql as $$
                    begin if new.to_agent_id = 'kept' then return null; end if; return new; end $$;
                  create trigger keeper before insert on agent_messages for each row execute function keep()";
    let rule =
        "create rule keeper as on insert to agent_messages where new.to_agent_id = 'kept' do instead nothing";
    for ddl in [keeper, rule] {
        let mesh = Mesh::start().await;
        mesh.db.sql().await.batch_execute(ddl).await.unwrap();
        let (a, _) = mesh.connect("a", 0).await;
        let kept = a.submit(to("kept", &1)).await.unwrap();
        let goes = a.submit(to("r", &1)).await.unwrap();
        let (code, sentence) = refused(timeout(PATIENCE, kept.committed()).await.expect("answered"));
        assert_eq!(code, "rejected", "{sentence}");
        assert!(sentence.contains("without an error") && sentence.contains("postbell doctor"), "{sentence}");
        timeout(PATIENCE, goes.committed()).await.expect("answered").expect("stored");
    }
}

#[tokio::test]
async fn the_doctor_names_a_rule_that_came_later() {
    let mesh = Mesh::start().await;
    let checks = examine(&mesh.db.target()).await;
    assert!(checks.iter().all(|c| c.level == Level::Ok || c.check != "rehearsal"), "{checks:?}");
    for rule in [AUDIT, "create rule beside as on update to agent_messages do also select 1"] {
        mesh.db.sql().await.batch_execute(rule).await.expect(rule);
    }
    let checks = examine(&mesh.db.target()).await;
    let said: Vec<_> = checks.iter().filter(|c| c.check == "rehearsal").collect();
    assert_eq!(said.iter().map(|c| c.level).collect::<Vec<_>>(), [Level::Warn], "{said:?}");
    for part in [
        "The rules audited of public.agent_messages, beside of public.agent_messages do not go with",
        "alerts are escalated by slower statements",
        "inserted by a slower statement",
        "written one by one",
        "`drop rule audited on",
    ] {
        assert!(said[0].sentence.contains(part), "{part} is not in {said:?}");
    }
}

const ALERTS_AT_ONCE: &[(&str, &str)] =
    &[("POSTBELL_OFFLINE_ALERT_SECONDS", "1"), ("POSTBELL_ESCALATE_SECONDS", "1")];

#[tokio::test]
async fn an_absence_is_one_alert_that_is_escalated_once_whatever_rules_there_are() {
    let alerted = "create table alerted (alert_id uuid);
                   create rule alerted as on insert to agent_alerts do also insert into alerted values (new.alert_id)";
    for rule in [
        AUDIT,
        alerted,
        "create rule beside as on update to agent_alerts do also select 1",
        "create rule never as on update to agent_alerts do instead nothing",
    ] {
        let mesh = Mesh::with(ALERTS_AT_ONCE).await;
        mesh.db.sql().await.batch_execute(rule).await.expect(rule);
        let token = mesh.db.agent_as("boss", Some("orchestrator")).await;
        let mut boss = mesh.raw_with("boss", &token, 5).await;
        drop(mesh.raw("a", 5).await);
        let told = boss.expect("msg").await;
        assert_eq!((&told["topic"], &told["from"]), (&"alerts.escalated".into(), &"a".into()), "{rule}");
        boss.say(r#"{"op":"ack","tag":1,"ref":"r"}"#).await;
        boss.expect("acked").await;
        // Both look again: an absence or an alert that was done would be done a second time.
        drop(mesh.raw("b", 5).await);
        assert_eq!(boss.expect("msg").await["from"], "b", "{rule}");
        let alerts = "select array_agg(agent_id || ' ' || status order by created_at) from agent_alerts";
        assert_eq!(mesh.db.ask::<Vec<String>>(alerts).await, ["a active", "b active"], "{rule}");
        let messages = "select count(*) from agent_messages where topic = 'alerts.escalated'";
        assert_eq!(
            mesh.db.ask::<i64>(messages).await,
            4,
            "each to the topic and to the orchestrator: {rule}"
        );
        if rule == AUDIT {
            let audited = "select count(*) from agent_messages join audit using (message_id)
                           where topic = 'alerts.escalated'";
            assert_eq!(mesh.db.ask::<i64>(audited).await, 4);
        }
        if rule == alerted {
            assert_eq!(
                mesh.db.ask::<i64>("select count(*) from agent_alerts join alerted using (alert_id)").await,
                2
            );
        }
        mesh.stop().await;
    }
}

#[tokio::test]
async fn an_alert_that_a_rule_keeps_out_is_not_tried_for_ever() {
    for rule in [
        "create rule keeper as on insert to agent_messages where new.topic = 'alerts.escalated' do instead nothing",
        "create rule keeper as on insert to agent_alerts do instead nothing",
    ] {
        let mesh = Mesh::with(ALERTS_AT_ONCE).await;
        mesh.db.sql().await.batch_execute(rule).await.expect(rule);
        let _boss = mesh.db.agent_as("boss", Some("orchestrator")).await;
        drop(mesh.raw("a", 5).await);
        mesh.db
            .until("select exists (select from postbell.presence_history where alert_id is not null)")
            .await;
        if rule.contains("agent_messages") {
            mesh.until_metric("postbell_alerts_escalated_total", |n| n == 1.0).await;
        }
        assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.escalations").await, 0, "{rule}");
        drop(mesh.raw("b", 5).await);
        mesh.until_metric("postbell_alerts_raised_total", |n| n == 2.0).await;
        mesh.stop().await;
    }
}
