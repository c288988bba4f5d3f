//! Every way to write a message: whatever the producer's transaction does, each message that it committed is
//! delivered once.

use std::collections::BTreeSet;

use tokio_postgres::Client;

use crate::mesh::{Mesh, insert, next};

/// Exactly these payloads come, and the safety round alone finds none.
async fn expect(mesh: &Mesh, deliveries: &mut postbell_client::Deliveries, payloads: &[&str]) {
    let mut left: BTreeSet<&str> = payloads.iter().copied().collect();
    while !left.is_empty() {
        let delivery = next(deliveries).await;
        assert!(left.remove(delivery.payload()), "{} came, {left:?} are missing", delivery.payload());
        delivery.ack_confirmed().await.expect("acknowledged");
    }
    mesh.db.until("select count(*) = 0 from postbell.deliveries where inbox = 'a'").await;
}

async fn run(sql: &Client, statements: &str) {
    sql.batch_execute(statements).await.unwrap_or_else(|e| panic!("{statements}: {e:?}"));
}

#[tokio::test]
async fn isolation_levels_savepoints_and_rollbacks() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 100).await;
    let sql = mesh.db.sql().await;
    for (level, n) in [("serializable", "1"), ("repeatable read", "2"), ("read committed", "3")] {
        mesh.until_armed().await;
        run(&sql, &format!("begin isolation level {level}")).await;
        // The snapshot is older than anything that the broker does meanwhile.
        run(&sql, "select count(*) from agent_messages").await;
        insert(&sql, "a", 5, n).await;
        run(&sql, "savepoint s").await;
        insert(&sql, "a", 5, "\"rolled back to the savepoint\"").await;
        run(&sql, "rollback to s").await;
        insert(&sql, "a", 5, &format!("{n}0")).await;
        run(&sql, "commit").await;
        expect(&mesh, &mut deliveries, &[n, &format!("{n}0")]).await;
    }
    run(&sql, "begin").await;
    insert(&sql, "a", 5, "\"rolled back\"").await;
    run(&sql, "rollback").await;
    // Prepared statements and a failed transaction leave nothing either.
    run(&sql, "begin").await;
    insert(&sql, "a", 5, "\"failed\"").await;
    sql.batch_execute("select 1 / 0").await.expect_err("fails");
    run(&sql, "rollback").await;
    insert(&sql, "a", 5, "4").await;
    expect(&mesh, &mut deliveries, &["4"]).await;
    assert_eq!(mesh.metric("postbell_tail_late_total").await, 0.0);
}

#[tokio::test]
async fn copy_and_insert_select() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 100).await;
    let sql = mesh.db.sql().await;
    run(&sql, "create table staged (n int)").await;
    run(&sql, "insert into staged select generate_series(1, 3)").await;
    run(
        &sql,
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 's', 'a', 'data', to_jsonb(n) from staged",
    )
    .await;
    expect(&mesh, &mut deliveries, &["1", "2", "3"]).await;
    let sink = sql
        .copy_in("copy agent_messages (from_agent_id, to_agent_id, message_type, payload) from stdin")
        .await
        .expect("copies");
    let mut sink = std::pin::pin!(sink);
    use futures_util::SinkExt;
    sink.send(bytes::Bytes::from_static(b"s\ta\tdata\t4\ns\ta\tdata\t5\n")).await.expect("takes rows");
    sink.finish().await.expect("two rows");
    expect(&mesh, &mut deliveries, &["4", "5"]).await;
}

/// The user's own triggers, before and after ours by name: the row counts as it was stored.
#[tokio::test]
async fn other_triggers_on_the_table() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 100).await;
    let sql = mesh.db.sql().await;
    run(
        &sql,
        "create function redirect() returns trigger language plpgsql as $$
           begin if new.to_agent_id = 'alias' then new.to_agent_id := 'a'; end if; return new; end $$;
         create trigger aaa_redirect before insert on agent_messages for each row execute function redirect();
         create function copy_to_log() returns trigger language plpgsql as $$
           begin
             if new.to_agent_id = 'a' and new.message_type = 'command' then
               insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
               values ('log', 'a', 'data', to_jsonb('log of ' || new.payload::text));
             end if;
             return null;
           end $$;
         create trigger aaa_log after insert on agent_messages for each row execute function copy_to_log();
         create trigger zzz_log after insert on agent_messages for each row
           when (new.message_type = 'query') execute function copy_to_log();
         create function refuse() returns trigger language plpgsql as $$
           begin raise exception 'not this one'; end $$;
         create trigger zzz_refuse after insert on agent_messages for each row
           when (new.message_type = 'alert') execute function refuse()",
    )
    .await;
    insert(&sql, "alias", 5, "1").await;
    expect(&mesh, &mut deliveries, &["1"]).await;
    let send = |kind: &str, payload: &str| {
        format!(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
             values ('s', 'a', '{kind}', '{payload}')"
        )
    };
    run(&sql, &send("command", "2")).await;
    expect(&mesh, &mut deliveries, &["2", "\"log of 2\""]).await;
    sql.batch_execute(&send("alert", "3")).await.expect_err("the user's trigger refuses it");
    run(&sql, &send("query", "4")).await;
    expect(&mesh, &mut deliveries, &["4"]).await;
}

/// A message that kills its agent each time must stop doing so: it ends in the dead letters, with the reason.
#[tokio::test]
async fn a_poison_message_ends_in_the_dead_letters_and_the_inbox_goes_on() {
    let mesh = Mesh::with(&[("POSTBELL_MAX_ATTEMPTS", "3")]).await;
    let token = mesh.db.agent("a").await;
    let sql = mesh.db.sql().await;
    insert(&sql, "a", 1, "\"poison\"").await;
    insert(&sql, "a", 9, "\"food\"").await;
    for attempt in 1..=3 {
        let mut raw = mesh.raw_with("a", &token, 1).await;
        let msg = raw.expect("msg").await;
        assert_eq!((&msg["payload"], &msg["attempt"]), (&"poison".into(), &attempt.into()));
        // The agent died with the message in hand. The broker must have seen and written that before the next session
        // comes, or that session would be given what is left.
        drop(raw);
        mesh.until_metric("postbell_sessions", |sessions| sessions == 0.0).await;
        mesh.until_metric("postbell_unsettled", |unsettled| unsettled == 0.0).await;
    }
    let mut raw = mesh.raw_with("a", &token, 1).await;
    assert_eq!(raw.expect("msg").await["payload"], "food");
    let reason = "select last_error from postbell.deliveries where dead_at is not null";
    let reason: String = mesh.db.ask(reason).await;
    assert!(reason.contains("disconnected") && reason.contains("attempt 3, the last"), "{reason}");
}
