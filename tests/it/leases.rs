//! Somebody else writes `postbell.leases`: a restore, a job that cleans up. The broker finds out at its next renewal.

use serde_json::Value;
use tokio::time::timeout;

use crate::harness::TRIGGER_FAULTS;
use crate::mesh::{Mesh, insert};
use crate::settle::SERVED;

/// Each statement takes the inbox `u`, or all inboxes, from their broker.
const WRITTEN: &[&str] = &[
    "delete from postbell.leases where inbox = 'u'",
    "truncate postbell.leases",
    "delete from postbell.leases",
    "update postbell.leases set inbox = 'another' where inbox = 'u'",
    "update postbell.leases set epoch = epoch + 1",
    "update postbell.leases set broker_id = gen_random_uuid() where inbox = 'u'",
    "update postbell.leases set broker_id = gen_random_uuid(), epoch = 9223372036854775807",
];

#[tokio::test]
async fn an_inbox_whose_lease_somebody_wrote_is_served_in_time() {
    let mesh = Mesh::start().await;
    let (mut a, mut u) = (mesh.raw("a", 100).await, mesh.raw("u", 100).await);
    let sql = mesh.db.sql().await;
    for (n, statement) in (1_u32..).zip(WRITTEN) {
        sql.batch_execute(statement).await.expect(statement);
        for (agent, raw) in [("a", &mut a), ("u", &mut u)] {
            insert(&sql, agent, 5, &n.to_string()).await;
            let msg = timeout(SERVED, raw.expect("msg"))
                .await
                .unwrap_or_else(|_| panic!("{agent} waits: {statement}"));
            assert_eq!(msg["payload"], Value::from(n), "{statement}");
            raw.say(&format!(r#"{{"op":"ack","tag":{},"ref":"r"}}"#, msg["tag"])).await;
            raw.expect("acked").await;
        }
        mesh.until_metric("postbell_leases_lost_total", |lost| lost >= f64::from(n)).await;
        mesh.db.until("select count(*) = 2 from postbell.leases").await;
    }
    let (db, _) = mesh.stop().await;
    assert_eq!(db.ask::<i64>("select count(*) from postbell.leases").await, 0, "given back");
}

/// The lease of `a` comes to name a broker that never was; that of `u` a broker whose own lease ends soon.
#[tokio::test]
async fn an_inbox_of_a_broker_that_does_not_exist_is_served_once_that_lease_has_ended() {
    let mesh = Mesh::start().await;
    let mut both = [mesh.raw("a", 100).await, mesh.raw("u", 100).await];
    mesh.db.until("select count(*) = 2 from postbell.leases").await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "insert into postbell.brokers (broker_id, name, address, version, lease_until)
         values ('00000000-0000-0000-0000-00000000aaaa', 'g', '127.0.0.1:1', 'x', now() + interval '2 seconds');
         update postbell.leases
         set broker_id = ('00000000-0000-0000-0000-00000000' || case inbox when 'u' then 'aaaa' else 'bbbb' end)::uuid",
    )
    .await
    .expect("false leases");
    for (agent, raw) in ["a", "u"].into_iter().zip(&mut both) {
        insert(&sql, agent, 5, "1").await;
        timeout(SERVED, raw.expect("msg")).await.unwrap_or_else(|_| panic!("{agent} waits"));
    }
    let _ = mesh.stop().await;
}

/// A broker that is told of an inbox by a false row only, and has no agent for it, is in no other broker's way.
#[tokio::test]
async fn a_false_lease_of_a_living_broker_keeps_its_inbox_from_nobody() {
    let one = Mesh::start().await;
    let idle = one.raw("idle", 1).await;
    one.db.until("select exists (select from postbell.leases where inbox = 'idle')").await;
    let sql = one.db.sql().await;
    sql.batch_execute(
        "insert into postbell.leases (inbox, broker_id) select 'a', broker_id from postbell.brokers",
    )
    .await
    .expect("a false lease");
    let two = Mesh::on(one.db.clone(), &[]).await;
    let mut a = two.raw("a", 100).await;
    insert(&sql, "a", 5, "1").await;
    timeout(SERVED, a.expect("msg")).await.expect("served");
    drop(idle);
    let _ = (one.stop().await, two.stop().await);
}

/// The epochs are at their end. An inbox that is asked for anew waits, and the reason that is told is not that the database is away.
#[tokio::test]
async fn leases_that_the_database_refuses_are_told_as_that() {
    let mesh = Mesh::start().await;
    let mut u = mesh.raw("u", 100).await;
    let sql = mesh.db.sql().await;
    insert(&sql, "u", 5, "1").await;
    u.expect("msg").await;
    sql.batch_execute("select setval('postbell.epochs', 9223372036854775807)").await.expect("at its end");
    let _a = mesh.raw("a", 100).await;
    mesh.until_told("refuses to write the leases of a").await;
    let told = mesh.until_ready(false).await;
    assert!(told.contains("refuses to write the leases") && told.contains("2200H"), "{told}");
    insert(&sql, "u", 5, "2").await;
    timeout(SERVED, u.expect("msg")).await.expect("u is served");
    sql.batch_execute("select setval('postbell.epochs', 1000)").await.expect("mended");
    mesh.until_ready(true).await;
    mesh.stop().await;
}

/// A lock on the lease of `a`, by a session that goes on.
const LOCKS: &str = "begin; insert into postbell.leases (inbox, broker_id) values ('a', gen_random_uuid())";

/// One lease is refused, slow, locked, or ends the server process. Others get and keep theirs, and a lease given back is another's.
#[tokio::test]
async fn a_lease_that_takes_no_change_is_the_only_one() {
    let faults = TRIGGER_FAULTS.map(|body| (body, "")).into_iter().chain([("null", LOCKS)]);
    for (body, locks) in faults {
        let mesh = Mesh::start().await;
        let mut u = mesh.raw("u", 100).await;
        let (sql, holder) = (mesh.db.sql().await, mesh.db.sql().await);
        let trigger = format!(
            "create function hurts() returns trigger language plpgsql as $$
             begin if new.inbox = 'a' then {body}; end if; return new; end $$;
             create trigger hurts before insert or update on postbell.leases for each row execute function hurts()"
        );
        sql.batch_execute(&trigger).await.expect("a trigger");
        holder.batch_execute(locks).await.expect("a lock");
        let mut a = mesh.raw("a", 100).await;
        mesh.until_told("refuses to write the leases of a").await;
        let mut late = mesh.raw("late", 100).await;
        for (agent, raw) in [("u", &mut u), ("late", &mut late)] {
            insert(&sql, agent, 5, "1").await;
            timeout(SERVED, raw.expect("msg"))
                .await
                .unwrap_or_else(|_| panic!("{agent} waits: {body} {locks}"));
        }
        insert(&sql, "a", 5, "1").await;
        holder.batch_execute("rollback").await.expect("unlocked");
        sql.batch_execute("drop trigger hurts on postbell.leases").await.expect("mended");
        timeout(SERVED, a.expect("msg")).await.unwrap_or_else(|_| panic!("a waits for ever: {body} {locks}"));
        mesh.stop().await;
    }
}

/// A row of the registry, or a lease, refuses to let the broker go. The next broker need not wait for its lease to end.
#[tokio::test]
async fn a_broker_that_a_row_does_not_let_go_frees_its_inboxes_all_the_same() {
    for ddl in [
        "create trigger hurts before update on agent_registry for each row when (new.agent_id = 'a') execute function hurts()",
        "create trigger hurts before delete on postbell.leases for each row when (old.inbox = 'a') execute function hurts()",
    ] {
        let mesh = Mesh::start().await;
        let (mut a, mut u) = (mesh.raw("a", 100).await, mesh.raw("u", 100).await);
        let sql = mesh.db.sql().await;
        for (agent, raw) in [("a", &mut a), ("u", &mut u)] {
            insert(&sql, agent, 5, "1").await;
            raw.expect("msg").await;
        }
        mesh.db.until("select count(*) = 2 from agent_registry where cardinality(connected_to) = 1").await;
        let function =
            "create function hurts() returns trigger language plpgsql as $$ begin raise 'no'; end $$;";
        sql.batch_execute(&format!("{function} {ddl}")).await.expect(ddl);
        let (db, _) = mesh.stop().await;
        let alive = "select count(*) from postbell.brokers where lease_until > now()";
        assert_eq!(db.ask::<i64>(alive).await, 0, "{ddl}");
    }
}
