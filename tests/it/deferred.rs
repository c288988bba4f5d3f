//! Work of the user's tables at the COMMIT is a part of a send or an outcome like any other.

use std::time::Instant;

use postbell::store::Connection;
use tokio::time::timeout;

use crate::harness::migrated;
use crate::held_sends::{refused, to};
use crate::mesh::{Mesh, PATIENCE};
use crate::settle::{SERVED, Two, doctor_says};

const SLOW_AT_COMMIT: &str = "
    create function dawdle() returns trigger language plpgsql as $$
      begin if new.to_agent_id = 'slow' then perform pg_sleep(10); end if; return null; end $$;
    create constraint trigger dawdle after insert on agent_messages deferrable initially deferred
      for each row execute function dawdle()";

#[tokio::test]
async fn a_trigger_that_is_slow_at_the_commit_holds_up_one_send_alone() {
    let mesh = Mesh::start().await;
    let (a, _) = mesh.connect("a", 0).await;
    let (u, _) = mesh.connect("u", 0).await;
    // These sends open the connection and prepare its statements.
    for n in 0..3 {
        u.send(to("r", &n)).await.expect("stored");
    }
    mesh.db.sql().await.batch_execute(SLOW_AT_COMMIT).await.unwrap();
    let slow = a.submit(to("slow", &1)).await.unwrap();
    let began = Instant::now();
    for n in 0..20 {
        timeout(PATIENCE, u.send(to("r", &n))).await.expect("answered").expect("stored");
    }
    // A batch used to wait four seconds for the database.
    assert!(began.elapsed() < SERVED / 2, "20 sends took {:?}", began.elapsed());
    let (code, sentence) = refused(timeout(PATIENCE, slow.committed()).await.expect("answered"));
    assert!(code == "unavailable" && sentence.contains("not stored"), "{sentence}");
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages where to_agent_id = 'slow'").await, 0);
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages where to_agent_id = 'r'").await, 23);
}

/// A deferred reference is checked when all of a transaction is there, not before.
#[tokio::test]
async fn what_a_later_trigger_completes_is_taken() {
    let mesh = Mesh::start().await;
    let ddl = "create table threads (name text primary key);
         alter table agent_messages add constraint of_a_thread foreign key (correlation_id) references threads
           deferrable initially deferred;
         create function thread() returns trigger language plpgsql as $$
           begin insert into threads values (new.correlation_id) on conflict do nothing; return null; end $$;
         create trigger zz_thread after insert on agent_messages for each row execute function thread()";
    mesh.db.sql().await.batch_execute(ddl).await.unwrap();
    let (a, _) = mesh.connect("a", 0).await;
    for n in 0..3 {
        let send = a.send(to("r", &n).correlation_id(&format!("thread {n}")));
        timeout(PATIENCE, send).await.expect("answered").expect("stored");
    }
}

/// A trigger that is slow at the COMMIT of an update of one row.
fn slow_for_a(table: &str, column: &str) -> String {
    format!(
        "create function dawdle() returns trigger language plpgsql as $$
           begin if new.{column} = 'a' then perform pg_sleep(30); end if; return null; end $$;
         create constraint trigger dawdle after update on {table} deferrable initially deferred
           for each row execute function dawdle()"
    )
}

/// Whether no server process sleeps in somebody's trigger, and holds its rows.
const NOBODY_SLEEPS: &str =
    "select count(*) = 0 from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'";

#[tokio::test]
async fn an_outcome_that_is_slow_at_the_commit_holds_up_nobody_else() {
    let mut two = Two::after(&slow_for_a("agent_messages", "to_agent_id")).await;
    for _ in 0..5 {
        let tag = two.send_a("1").await["tag"].clone();
        two.a.say(&format!(r#"{{"op":"ack","tag":{tag}}}"#)).await;
    }
    for _ in 0..3 {
        two.u_is_served().await;
    }
    let aside = "select count(*) = 5 from postbell.set_aside where inbox = 'a'";
    timeout(SERVED, two.mesh.db.until(aside)).await.expect("what is slow is set aside");
    let written = "select count(*) = 3 from agent_messages where to_agent_id = 'u' and status = 'processed'";
    two.mesh.db.until(written).await;
    timeout(SERVED, two.mesh.db.until(NOBODY_SLEEPS)).await.expect("no statement is left behind");
    assert_eq!(two.mesh.metric("postbell_unsettled").await, 0.0);
    doctor_says(&two.mesh.db, &["5 outcomes (ack)", "of a"]).await;
    two.nothing_comes_again().await;
}

#[tokio::test]
async fn presence_that_is_slow_at_the_commit_keeps_nobody_else_out() {
    let slow = slow_for_a("agent_registry", "agent_id");
    let at_once = slow.replace("constraint trigger", "trigger").replace("deferrable initially deferred", "");
    for ddl in [slow, at_once] {
        let two = Two::after(&ddl).await;
        let online = "select status = 'online' and last_heartbeat > now() - interval '60 seconds'
                      from agent_registry where agent_id = 'u'";
        timeout(SERVED, two.mesh.db.until(online)).await.expect("u is online");
        let forgotten = "update agent_registry set last_heartbeat = 'epoch' where agent_id = 'u'";
        two.mesh.db.sql().await.batch_execute(forgotten).await.unwrap();
        // The next heartbeats are ten seconds later.
        timeout(SERVED * 3, two.mesh.db.until(online)).await.expect("u is online still");
        doctor_says(&two.mesh.db, &["presence of 1 agents", "such as a", "too long"]).await;
        two.mesh.until_ready(true).await;
        timeout(SERVED, two.mesh.db.until(NOBODY_SLEEPS)).await.expect("no statement is left behind");
        two.mesh.stop().await;
    }
}

/// Heartbeats have no transaction around them while the registry defers nothing. The trigger comes between two of those.
#[tokio::test]
async fn a_registry_that_begins_to_defer_keeps_nobody_else_out() {
    let mesh = Mesh::start().await;
    let _here = (mesh.connect("a", 5).await, mesh.connect("u", 5).await);
    let db = &mesh.db;
    let last = "select coalesce(last_heartbeat, 'epoch')::text from agent_registry where agent_id = 'u'";
    for _ in 0..3 {
        let last: String = db.ask(last).await;
        db.until(&format!("select last_heartbeat > '{last}' from agent_registry where agent_id = 'u'")).await;
    }
    let slow = slow_for_a("agent_registry", "agent_id");
    let forgotten = "update agent_registry set last_heartbeat = 'epoch' where agent_id = 'u'";
    db.sql().await.batch_execute(&format!("{forgotten}; {slow}")).await.unwrap();
    let online = "select status = 'online' and last_heartbeat > now() - interval '60 seconds'
                  from agent_registry where agent_id = 'u'";
    db.until(online).await;
    doctor_says(db, &["presence of 1 agents", "such as a", "too long"]).await;
    mesh.until_ready(true).await;
    db.until(NOBODY_SLEEPS).await;
}

#[tokio::test]
async fn a_statement_that_is_given_up_does_not_go_on() {
    let db = migrated().await;
    let connection = Connection::open(&db.target().impatient()).await.unwrap();
    // The server's own limit is caught.
    let stubborn = "do $$ begin perform pg_sleep(30);
                    exception when query_canceled then perform pg_sleep(30); end $$";
    let late = connection.batch(stubborn).await.expect_err("it is late");
    assert!(connection.is_closed() && late.to_string().contains("did not answer"), "{late}");
    timeout(SERVED, db.until(NOBODY_SLEEPS)).await.expect("no statement is left behind");
}

/// A deferred reference that fails is the fault of its row.
#[tokio::test]
async fn an_outcome_that_the_commit_refuses_is_set_aside_alone() {
    let ddl = "create function refuse() returns trigger language plpgsql as $$
                 begin if new.to_agent_id = 'a' then raise exception 'no'; end if; return null; end $$;
               create constraint trigger refuse after update on agent_messages deferrable initially deferred
                 for each row execute function refuse()";
    let mut two = Two::after(ddl).await;
    let tag = two.send_a("1").await["tag"].clone();
    two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"x"}}"#)).await;
    two.a.expect("acked").await;
    two.u_is_served().await;
    doctor_says(&two.mesh.db, &["1 outcomes (ack)", "the trigger refuse of agent_messages"]).await;
    two.nothing_comes_again().await;
}
