//! Work of the user's tables at the COMMIT is a part of a send or an outcome like any other.

use std::time::Instant;

use tokio::time::timeout;

use crate::held_sends::{refused, to};
use crate::mesh::{Mesh, PATIENCE};
use crate::settle::{SERVED, Two};

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

#[tokio::test]
async fn an_outcome_that_is_slow_at_the_commit_holds_up_nobody_else() {
    let ddl = "create function dawdle() returns trigger language plpgsql as $$
        begin if new.to_agent_id = 'a' then perform pg_sleep(10); end if; return null; end $$;
      create constraint trigger dawdle after update on agent_messages deferrable initially deferred
        for each row execute function dawdle()";
    let mut two = Two::after(ddl).await;
    let tag = two.send_a("1").await["tag"].clone();
    two.a.say(&format!(r#"{{"op":"ack","tag":{tag}}}"#)).await;
    for _ in 0..3 {
        two.u_is_served().await;
    }
    two.mesh.stop().await;
}
