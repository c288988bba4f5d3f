//! Changes that come by time alone, and remains of other brokers.

use crate::harness::migrated;
use crate::mesh::{Mesh, Raw, insert, next};

#[tokio::test]
async fn retention_removes_what_ended_long_ago_and_keeps_dead_letters() {
    let db = migrated().await;
    let sql = db.sql().await;
    for payload in ["\"old\"", "\"dead\"", "\"waiting\"", "\"recent\""] {
        insert(&sql, "a", 5, payload).await;
    }
    sql.batch_execute(
        "update agent_messages set created_at = now() - interval '8 days';
         update agent_messages set status = 'processed', processed_at = now() - interval '8 days' where payload = '\"old\"';
         update agent_messages set status = 'processed', processed_at = now() where payload = '\"recent\"';
         update postbell.deliveries d set state = 'dead', dead_at = now() - interval '8 days', last_error = 'x'
         from agent_messages m where m.message_id = d.message_id and m.payload = '\"dead\"';
         set postbell.broker = 'on';
         update agent_messages set status = 'failed' where payload = '\"dead\"'",
    )
    .await
    .unwrap();
    let mesh = Mesh::on(db, &[]).await;
    mesh.db.until("select count(*) = 0 from agent_messages where payload = '\"old\"'").await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages").await, 3);
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.deliveries where state = 'dead'").await, 1);
}

#[tokio::test]
async fn a_broadcast_that_nobody_was_there_for_ends() {
    let db = migrated().await;
    db.sql()
        .await
        .batch_execute(
            "insert into agent_messages (from_agent_id, message_type, payload, created_at)
             values ('x', 'alert', '1', now() - interval '2 hours')",
        )
        .await
        .unwrap();
    let mesh = Mesh::on(db, &[]).await;
    mesh.db.until("select status = 'processed' from agent_messages").await;
}

#[tokio::test]
async fn a_broadcast_whose_row_takes_no_end_is_set_aside_and_the_others_end() {
    let db = migrated().await;
    let sql = db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, message_type, payload, created_at)
         select 'x', 'alert', to_jsonb(n), now() - interval '2 hours' from generate_series(1, 5) n;
         create function refuses() returns trigger language plpgsql as $$
           begin if new.payload = '3' then raise exception 'no'; end if; return new; end $$;
         create trigger refuses before update on agent_messages for each row execute function refuses()",
    )
    .await
    .unwrap();
    let mesh = Mesh::on(db, &[]).await;
    mesh.db.until("select count(*) = 4 from agent_messages where status = 'processed'").await;
    mesh.db
        .until("select count(*) = 1 from postbell.set_aside where kind = 'ack' and reason like '%refuses%'")
        .await;
    let mend = "drop trigger refuses on agent_messages; update postbell.set_aside set next_try = now()";
    sql.batch_execute(mend).await.unwrap();
    mesh.db.until("select count(*) = 5 from agent_messages where status = 'processed'").await;
    mesh.db.until("select count(*) = 0 from postbell.set_aside").await;
}

#[tokio::test]
async fn a_broker_that_has_been_silent_is_forgotten_with_its_leases_and_its_agents() {
    let db = migrated().await;
    db.agent("there").await;
    db.sql()
        .await
        .batch_execute(
            "update agent_registry set status = 'online', connected_to = '{00000000-0000-0000-0000-000000000001}';
             insert into postbell.brokers (broker_id, name, address, version, lease_until, armed)
             values ('00000000-0000-0000-0000-000000000001', 'gone', 'x', 'x', now() - interval '1 minute', true);
             insert into postbell.leases (inbox, broker_id) values ('there', '00000000-0000-0000-0000-000000000001')",
        )
        .await
        .unwrap();
    let mesh = Mesh::on(db, &[]).await;
    mesh.db.until("select count(*) = 0 from postbell.brokers where name = 'gone'").await;
    mesh.db.until("select count(*) = 0 from postbell.leases").await;
    mesh.db.until("select status = 'offline' from agent_registry").await;
}

/// The other broker is alive when the session comes, so the inbox is left alone until the lease ends.
#[tokio::test]
async fn an_inbox_of_another_live_broker_is_waited_for() {
    let mesh = Mesh::start().await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "insert into postbell.brokers (broker_id, name, address, version, lease_until)
         values ('00000000-0000-0000-0000-000000000001', 'other', 'x', 'x', now() + interval '1 hour');
         insert into postbell.leases (inbox, broker_id) values ('a', '00000000-0000-0000-0000-000000000001')",
    )
    .await
    .unwrap();
    insert(&sql, "a", 5, "1").await;
    let mut raw = mesh.raw("a", 5).await;
    raw.say(r#"{"op":"ping"}"#).await;
    raw.expect("pong").await;
    sql.batch_execute("update postbell.brokers set lease_until = now() where name = 'other'").await.unwrap();
    assert_eq!(raw.expect("msg").await["payload"], 1);
    let epochs = "select count(distinct epoch) = 1 and bool_and(epoch > 1) from postbell.leases";
    assert!(mesh.db.ask::<bool>(epochs).await, "another ownership has another epoch");
}

#[tokio::test]
async fn an_agent_that_does_not_read_is_closed_and_delays_nobody() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("slow").await;
    // A small buffer, since machines differ in how much their sockets hold by themselves.
    let _slow = mesh.raw_on(Raw::open_small(mesh.agents).await, "slow", &token, 1_000).await;
    let (_client, mut deliveries) = mesh.connect("quick", 10).await;
    let sql = mesh.db.sql().await;
    // More than the session's bound and both buffers can hold.
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 'x', 'slow', 'data', to_jsonb(repeat('x', 500000)) from generate_series(1, 60)",
    )
    .await
    .unwrap();
    for n in 0..50 {
        insert(&sql, "quick", 5, &n.to_string()).await;
        next(&mut deliveries).await.ack().await;
    }
    mesh.until_metric("postbell_closed_total{reason=\"slow_reader\"}", |n| n == 1.0).await;
    // Every message is still there, given back or failed, and nothing is lost.
    mesh.db.until("select count(*) = 60 from postbell.deliveries where inbox = 'slow'").await;
}
