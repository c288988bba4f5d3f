//! Redriving and purging when the user's table refuses one of the rows, or somebody holds it: the rest is done, and
//! that row is named.

use std::time::Duration;

use postbell_client::protocol::ErrorCode;
use postbell_client::{ClientError, Which};
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::{TestDb, command, migrated};
use crate::mesh::{Mesh, PATIENCE};

/// Ways to refuse the message of the third dead letter when it should wait again, each with the name that the refusal
/// must give.
const REFUSALS: &[(&str, &str)] = &[
    (
        "alter table agent_messages add constraint no_third check (status <> 'pending' or payload <> '3') not valid",
        "no_third",
    ),
    (
        "create function third() returns trigger language plpgsql as $$
         begin if new.payload = '3' then raise exception 'secret %', new; end if; return new; end $$;
         create trigger not_the_third before update on agent_messages for each row execute function third()",
        "not_the_third",
    ),
    (
        "create function third() returns trigger language plpgsql as $$
         begin if new.payload = '3' then return null; end if; return new; end $$;
         create trigger not_the_third before update on agent_messages for each row execute function third()",
        "without an error",
    ),
    (
        "create rule not_the_third as on update to agent_messages where new.payload = '3' do instead nothing",
        "without an error",
    ),
    (
        "create function third() returns trigger language plpgsql as $$
         begin if new.payload = '3' then raise exception 'secret'; end if; return null; end $$;
         create constraint trigger not_the_third after update on agent_messages deferrable initially deferred
         for each row execute function third()",
        "third()",
    ),
];

/// Six dead letters of inbox a, with the payloads 1 to 6.
async fn bury(db: &TestDb) {
    db.sql()
        .await
        .batch_execute(
            "set postbell.broker = on;
             insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             select 'x', 'a', 'command', to_jsonb(n) from generate_series(1, 6) n;
             update postbell.deliveries set state = 'dead', dead_at = now(), attempt = 10, last_error = 'no such county';
             update agent_messages set status = 'failed', error_message = 'gave up'",
        )
        .await
        .expect("dead letters");
}

const DEAD: &str =
    "select array_agg(delivery_id order by delivery_id) from postbell.deliveries where state = 'dead'";
const AS_NEW: &str = "select count(*) from postbell.deliveries d join agent_messages m using (message_id)
                      where d.state = 'ready' and d.attempt = 0 and m.status = 'pending' and m.error_message is null";

async fn third(db: &TestDb) -> i64 {
    db.ask("select delivery_id from postbell.deliveries join agent_messages using (message_id) where payload = '3'").await
}

#[tokio::test]
async fn a_row_that_is_refused_stays_dead_alone_and_is_named() {
    for (ddl, name) in REFUSALS {
        let db = migrated().await;
        bury(&db).await;
        db.sql().await.batch_execute(ddl).await.expect(ddl);
        let third = third(&db).await;
        let ended = command(&db, &["dead", "redrive", "--all"]).await;
        assert_eq!((ended.status, ended.stdout.as_str()), (1, "redriven 5\n"), "{name}: {}", ended.stderr);
        let said = format!("{third} stays dead: ");
        assert!(ended.stderr.contains(&said) && ended.stderr.contains(name), "{name}: {}", ended.stderr);
        assert!(!ended.stderr.contains("secret"), "{}", ended.stderr);
        assert_eq!(db.ask::<i64>(AS_NEW).await, 5, "{name}");
        assert_eq!(db.ask::<Vec<i64>>(DEAD).await, [third], "{name}");
        let said = command(&db, &["dead", "redrive", "--inbox", "a", "--json"]).await.stdout;
        let said: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(
            (&said["redriven"], &said["refused"][0]["delivery_id"]),
            (&0.into(), &third.into()),
            "{said}"
        );
    }
}

#[tokio::test]
async fn an_agent_is_told_which_one_is_refused() {
    let (ddl, name) = REFUSALS[0];
    let mesh = Mesh::start().await;
    bury(&mesh.db).await;
    mesh.db.sql().await.batch_execute(ddl).await.expect(ddl);
    let third = third(&mesh.db).await;
    let (client, _deliveries) = mesh.connect("a", 0).await;
    let all: Vec<i64> = client.dead_letters(None, None).await.unwrap().letters.iter().map(|l| l.id).collect();
    match client.redrive(Which::Ids(&all)).await.expect_err("one is refused") {
        ClientError::Refused { code, message, .. } => {
            assert_eq!(code, ErrorCode::Rejected, "{message}");
            assert!(message.contains("5 were redriven") && message.contains(name), "{message}");
            assert!(message.contains(&format!("delivery {third} stays dead")), "{message}");
        }
        other => panic!("{other}"),
    }
    assert_eq!(mesh.db.ask::<Vec<i64>>(DEAD).await, [third]);
    assert_eq!(mesh.db.ask::<i64>(AS_NEW).await, 5);
    // With an inbox chosen, the rest is done, and the client asks on for it.
    let sql = mesh.db.sql().await;
    sql.batch_execute("alter table agent_messages drop constraint no_third").await.unwrap();
    bury(&mesh.db).await;
    sql.batch_execute(ddl).await.unwrap();
    let done = client.redrive(Which::Inbox("a")).await.unwrap();
    let refused = done.refused.expect("two are refused");
    assert_eq!((done.count, refused.count), (10, 2));
    assert!(refused.reason.starts_with(&format!("delivery {third} stays dead: ")), "{refused:?}");
    assert!(refused.reason.contains(name), "{refused:?}");
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries where state = 'dead'").await, 2);
    // If nothing can be done, the answer says so.
    let refused = client.redrive(Which::Inbox("a")).await.expect_err("both are refused");
    assert!(
        refused.to_string().contains("0 were redriven") && refused.to_string().contains(name),
        "{refused}"
    );
}

/// A poller takes the message and then its delivery. A redrive takes neither from the poller, and makes it no
/// deadlock's victim.
#[tokio::test]
async fn what_a_poller_holds_is_passed_over() {
    for op in ["redrive", "purge"] {
        let db = migrated().await;
        bury(&db).await;
        // A broadcast: purging writes its message as well.
        let broadcast = "set postbell.broker = on;
             update agent_messages set to_agent_id = null where payload = '3'; set postbell.broker = off";
        let poller = db.sql().await;
        poller.batch_execute(broadcast).await.unwrap();
        poller
            .batch_execute("begin; select from agent_messages where payload = '3' for update")
            .await
            .unwrap();
        let args = ["dead", op, "--all"];
        let asked = command(&db, &args);
        let ended = timeout(Duration::from_secs(20), asked).await.expect("nobody is waited for");
        assert_eq!(ended.status, 1, "{op}: {}", ended.stderr);
        assert!(ended.stderr.contains("1 are held by another transaction"), "{op}: {}", ended.stderr);
        assert!(ended.stdout.ends_with(" 5\n"), "{op}: {}", ended.stdout);
        let end = "update agent_messages set status = 'processed' where payload = '3'; commit";
        timeout(PATIENCE, poller.batch_execute(end)).await.expect("goes on").expect("is no victim");
    }
}

/// With a rule on the table several statements do what one does elsewhere.
#[tokio::test]
async fn a_rule_beside_each_change_keeps_nothing_dead() {
    for rule in ["also insert into audit values (new.message_id)", "also select 1"] {
        let db = migrated().await;
        bury(&db).await;
        let broadcast = "set postbell.broker = on;
             update agent_messages set to_agent_id = null where payload in ('5', '6'); set postbell.broker = off;
             create table audit (message_id uuid)";
        let sql = db.sql().await;
        sql.batch_execute(broadcast).await.unwrap();
        sql.batch_execute(&format!("create rule r as on update to agent_messages do {rule}"))
            .await
            .expect(rule);
        let held = db.sql().await;
        held.batch_execute("begin; select from agent_messages where payload in ('4', '6') for update")
            .await
            .unwrap();
        let numbers = "select array_agg(delivery_id::text order by payload) from postbell.deliveries
                       join agent_messages using (message_id) where payload in ('1', '2', '4')";
        let numbers = db.ask::<Vec<String>>(numbers).await;
        let redrive: Vec<&str> =
            ["dead", "redrive"].into_iter().chain(numbers.iter().map(String::as_str)).collect();
        let ended = command(&db, &redrive).await;
        assert_eq!((ended.status, ended.stdout.as_str()), (1, "redriven 2\n"), "{rule}: {}", ended.stderr);
        assert!(ended.stderr.contains("1 are held"), "{rule}: {}", ended.stderr);
        assert_eq!(db.ask::<i64>(AS_NEW).await, 2, "{rule}");
        let ended = command(&db, &["dead", "purge", "--all"]).await;
        assert_eq!((ended.status, ended.stdout.as_str()), (1, "purged 2\n"), "{rule}: {}", ended.stderr);
        let reason = "select error_message from agent_messages where payload = '5' and status = 'failed'";
        assert_eq!(db.ask::<String>(reason).await, "no such county", "{rule}");
        held.batch_execute("rollback").await.unwrap();
        assert_eq!(db.ask::<Vec<i64>>(DEAD).await.len(), 2, "{rule}");
    }
}
