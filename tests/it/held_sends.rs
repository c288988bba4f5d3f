//! A send that has to wait, or that the table does not take; and the sends of everybody else.

mod ended;
mod failover;
mod slow;

use std::time::{Duration, Instant};

use postbell::pipeline::publisher::HELD_WAIT;
use postbell_client::message::MessageType;
use postbell_client::{Client, ClientError, Outgoing};
use tokio::time::timeout;

use crate::mesh::{Mesh, PATIENCE};

/// An uninvolved agent is served within this, whatever others do.
const BOUND: Duration = Duration::from_secs(5);

pub(crate) fn to(agent: &str, payload: &impl serde::Serialize) -> Outgoing {
    Outgoing::new(agent, MessageType::Command, payload).unwrap()
}

/// The code and the sentence of a refusal.
pub(crate) fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (String, String) {
    match result {
        Err(ClientError::Refused { code, message, .. }) => (code.as_str().to_owned(), message),
        other => panic!("not refused: {other:?}"),
    }
}

/// An uninvolved agent's sends, one after the other, are stored within the bound.
async fn is_served(client: &Client, sends: usize) {
    let began = Instant::now();
    for n in 0..sends {
        timeout(PATIENCE, client.send(to("r", &n))).await.expect("answered").expect("stored");
    }
    assert!(began.elapsed() < BOUND, "{sends} sends took {:?}", began.elapsed());
}

#[tokio::test]
async fn a_dedupe_key_whose_transaction_is_open_holds_up_nobody_else() {
    let mesh = Mesh::start().await;
    let (a, _) = mesh.connect("a", 0).await;
    let (u, _) = mesh.connect("u", 0).await;
    let sql = mesh.db.sql().await;
    let held =
        "begin; insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, dedupe_key)
                select 'a', 'r', 'data', '1', 'k' || n from generate_series(1, 40) n";
    sql.batch_execute(held).await.unwrap();
    let mut receipts = Vec::new();
    for n in 1..=40 {
        receipts.push(a.submit(to("r", &n).dedupe_key(&format!("k{n}"))).await.unwrap());
    }
    let began = Instant::now();
    let (_, ()) = tokio::join!(is_served(&u, 50), async {
        // The same agent's other sends go on as well.
        timeout(PATIENCE, a.send(to("r", &"other"))).await.expect("answered").expect("stored");
        assert!(began.elapsed() < HELD_WAIT, "the send behind them waited for them");
    });
    for receipt in receipts {
        let (code, sentence) = refused(timeout(PATIENCE, receipt.committed()).await.expect("answered"));
        assert_eq!(code, "unavailable");
        assert!(sentence.contains("dedupe_key") && sentence.contains("not stored"), "{sentence}");
    }
    assert!(began.elapsed() < HELD_WAIT + BOUND, "answered within the bound: {:?}", began.elapsed());
    // Their keys are known once the other transaction is over, whichever way it ended.
    let again = a.submit(to("r", &1).dedupe_key("k1")).await.unwrap();
    sql.batch_execute("commit").await.unwrap();
    let first =
        mesh.db.ask::<uuid::Uuid>("select message_id from agent_messages where dedupe_key = 'k1'").await;
    assert_eq!(timeout(PATIENCE, again.committed()).await.expect("answered").unwrap(), first);
    sql.batch_execute(&held.replace("'k'", "'m'")).await.unwrap();
    let again = a.submit(to("r", &1).dedupe_key("m1")).await.unwrap();
    sql.batch_execute("rollback").await.unwrap();
    timeout(PATIENCE, again.committed()).await.expect("answered").expect("its own is the first");
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages where dedupe_key = 'm1'").await, 1);
}

#[tokio::test]
async fn a_trigger_that_is_slow_for_one_message_holds_up_nobody_else() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "create function dawdle() returns trigger language plpgsql as $$
         begin
           if new.to_agent_id = 'slow' then perform pg_sleep(60); end if;
           if new.to_agent_id = 'slowish' then perform pg_sleep(0.8); end if;
           return new;
         end $$;
         create trigger dawdle before insert on agent_messages for each row execute function dawdle()",
    )
    .await
    .unwrap();
    let (a, _) = mesh.connect("a", 0).await;
    let (u, _) = mesh.connect("u", 0).await;
    let mut slow = Vec::new();
    for _ in 0..3 {
        slow.push(a.submit(to("slow", &1)).await.unwrap());
    }
    let slowish = a.submit(to("slowish", &1)).await.unwrap();
    is_served(&u, 50).await;
    for receipt in slow {
        let (code, sentence) = refused(timeout(PATIENCE, receipt.committed()).await.expect("answered"));
        assert_eq!(code, "unavailable", "{sentence}");
    }
    // A send that is merely slow is written, apart, unless slower sends of the same agent took its time.
    let said = timeout(PATIENCE, slowish.committed()).await.expect("answered");
    if said.is_err() {
        timeout(PATIENCE, a.send(to("slowish", &1))).await.expect("answered").expect("stored");
    }
    is_served(&u, 10).await;
}

/// A lock on the table stops everybody. Nothing is refused for good, and all goes on when the lock is gone.
#[tokio::test]
async fn a_locked_table_is_waited_for_within_the_bound() {
    let mesh = Mesh::start().await;
    let (a, _) = mesh.connect("a", 0).await;
    let sql = mesh.db.sql().await;
    let lock = "begin; lock table agent_messages in access exclusive mode";
    sql.batch_execute(lock).await.unwrap();
    let mut receipts = Vec::new();
    for n in 0..200 {
        receipts.push(a.submit(to("r", &n)).await.unwrap());
    }
    sql.batch_execute("select pg_sleep(0.5); commit").await.unwrap();
    for receipt in receipts {
        timeout(PATIENCE, receipt.committed()).await.expect("answered").expect("stored");
    }
    sql.batch_execute(lock).await.unwrap();
    let (code, sentence) = refused(timeout(PATIENCE, a.send(to("r", &1))).await.expect("answered"));
    assert_eq!(code, "unavailable");
    assert!(sentence.contains("not stored"), "{sentence}");
    sql.batch_execute("commit").await.unwrap();
    is_served(&a, 10).await;
}

/// The ways in which a table can refuse a row: constraints, triggers, types.
const REFUSALS: &[(&str, &str, &str)] = &[
    ("alter table agent_messages add constraint no_bad check (correlation_id is distinct from 'bad')", "no_bad", "check"),
    (
        "create function deny() returns trigger language plpgsql as $$
         begin if new.correlation_id = 'bad' then raise 'no %', new; end if; return new; end $$;
         create trigger deny before insert on agent_messages for each row execute function deny()",
        "deny()",
        "raise",
    ),
    (
        "create function deny_late() returns trigger language plpgsql as $$
         begin if new.correlation_id = 'bad' then raise using errcode = '23505', message = new.payload::text; end if; return null; end $$;
         create constraint trigger deny_late after insert on agent_messages deferrable initially deferred
         for each row execute function deny_late()",
        "deny_late()",
        "deferred",
    ),
    (
        "alter table agent_messages add column shout text generated always as (case when correlation_id = 'bad' then (1 / (priority - priority))::text end) stored",
        "division by zero",
        "generated",
    ),
    (
        "alter table agent_messages add column n int generated always as (case when correlation_id = 'bad' then payload::text::int end) stored",
        "22",
        "cast",
    ),
    (
        "create unique index one_bad on agent_messages (correlation_id) where correlation_id = 'bad';
         insert into agent_messages (from_agent_id, correlation_id, message_type, payload) values ('x', 'bad', 'data', '1')",
        "one_bad",
        "unique",
    ),
    (
        "create table topics (name text primary key); insert into topics values ('good');
         alter table agent_messages add constraint known foreign key (correlation_id) references topics not valid",
        "known",
        "foreign key",
    ),
];

#[tokio::test]
async fn what_a_table_refuses_is_refused_alone_and_by_name() {
    for (ddl, name, kind) in REFUSALS {
        let mesh = Mesh::start().await;
        mesh.db.sql().await.batch_execute(ddl).await.unwrap();
        let (a, _) = mesh.connect("a", 0).await;
        let (b, _) = mesh.connect("b", 0).await;
        let mut receipts = Vec::new();
        for n in 0..60_u32 {
            let (client, id) = (if n % 3 == 0 { &a } else { &b }, if n % 17 == 5 { "bad" } else { "good" });
            let message = to("r", &format!("secret {n}")).correlation_id(id);
            receipts.push((id, client.submit(message).await.unwrap()));
        }
        for (id, receipt) in receipts {
            let said = timeout(PATIENCE, receipt.committed()).await.expect("answered");
            if id == "good" {
                said.unwrap_or_else(|e| panic!("{kind}: a neighbour was refused: {e}"));
                continue;
            }
            let (code, sentence) = refused(said);
            assert_eq!(code, "rejected", "{kind}: {sentence}");
            assert!(sentence.contains(name) && !sentence.contains("secret"), "{kind}: {sentence}");
        }
        mesh.stop().await;
    }
}
