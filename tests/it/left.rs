//! Messages that producers leave to the router: each is routed once, in order, whatever happens to the router and
//! to the message meanwhile.

mod meddled;
mod routers;

use std::collections::BTreeMap;

use postbell_client::Deliveries;
use tokio_postgres::Client;

use crate::mesh::{Mesh, next};

const ALWAYS: (&str, &str) = ("POSTBELL_ROUTING", "always");

/// A broker to which everything is left, from now on.
async fn leaving() -> Mesh {
    let mesh = Mesh::with(&[ALWAYS]).await;
    until_leaving(&mesh).await;
    mesh
}

async fn until_leaving(mesh: &Mesh) {
    mesh.db
        .until(
            "select pg_sequence_last_value('postbell.routed') > extract(epoch from clock_timestamp()) * 1000 + 1000",
        )
        .await;
}

async fn run(sql: &Client, statements: &str) {
    sql.batch_execute(statements).await.unwrap_or_else(|e| panic!("{statements}: {e:?}"));
}

/// Messages for `a` with these payloads, as one statement.
fn many(from: u32, to: u32) -> String {
    format!(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 's', 'a', 'data', to_jsonb(n) from generate_series({from}, {to}) n;"
    )
}

/// Exactly these come, in this order, and each is acknowledged.
async fn expect(deliveries: &mut Deliveries, payloads: impl Iterator<Item = u32>) {
    for payload in payloads {
        let delivery = next(deliveries).await;
        assert_eq!(delivery.payload(), payload.to_string());
        delivery.ack().await;
    }
}

/// All that was written is over, and nothing remains of it.
async fn until_over(mesh: &Mesh) {
    mesh.db.until("select count(*) = 0 from agent_messages where status <> 'processed'").await;
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
}

#[tokio::test]
async fn what_is_left_is_routed_and_the_row_says_so() {
    let mesh = leaving().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    run(&sql, &many(1, 3)).await;
    expect(&mut deliveries, 1..=3).await;
    until_over(&mesh).await;
    assert_eq!(
        mesh.db.ask::<i64>("select count(*) from agent_messages where left_txid is not null").await,
        3
    );
    assert_eq!(mesh.metric("postbell_routed_total").await, 3.0);
    assert_eq!(mesh.metric("postbell_router").await, 1.0);
}

#[tokio::test]
async fn every_address_is_routed_as_the_trigger_routes_it() {
    let mesh = leaving().await;
    let sql = mesh.db.sql().await;
    for agent in ["a", "b", "c"] {
        mesh.db.agent(agent).await;
    }
    run(&sql, "update agent_registry set environment = 'railway' where agent_id in ('b', 'c')").await;
    run(&sql, "insert into postbell.subscriptions (pattern, agent_id) values ('t.>', 'a'), ('t.x', 'a'), ('t.*', 'c')")
        .await;
    let rows = "insert into agent_messages (from_agent_id, to_agent_id, to_group, topic, to_environment, to_instance, message_type,
                                            payload, priority, status, deliver_at, ordering_key)
                values ('s', 'b', null, null, null, null, 'data', '1', 3, 'pending', null, 'k'),
                       ('s', null, 'g', null, null, null, 'data', '2', 99, null, null, null),
                       ('s', null, null, 't.x', null, null, 'data', '3', null, 'pending', null, repeat('k', 300)),
                       ('s', null, null, null, 'railway', null, 'data', '4', 5, 'pending', null, null),
                       ('s', null, null, null, null, null, 'data', '5', 5, 'pending', now() + interval '1 hour', null),
                       ('s', 'b', null, null, null, 'one', 'data', '6', 5, 'pending', null, null),
                       ('s', 'b', null, null, null, null, 'data', '7', 5, 'processed', null, null),
                       ('s', 'nobody', null, null, null, null, 'data', '8', 5, 'pending', null, null)";
    run(&sql, "alter table agent_messages drop constraint if exists agent_messages_priority_check").await;
    let made = "select coalesce(string_agg(concat_ws(' ', m.payload, d.inbox, d.priority, d.state, d.due_at is not null, d.ordering_key), ',' order by
                m.payload, d.inbox), '') from postbell.deliveries d join agent_messages m using (message_id)";
    run(&sql, rows).await;
    mesh.db.until("select count(*) = 11 and not exists (select from agent_messages m where postbell.is_left(m.left_txid)) from postbell.deliveries").await;
    let left: String = mesh.db.ask(made).await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from agent_messages where left_txid is null").await, 0);
    run(&sql, "delete from agent_messages; select setval('postbell.routed', 0)").await;
    // The trigger: in one transaction with the writing of 0, so that the router does not write it forward in between.
    run(&sql, &format!("begin; update postbell.router set epoch = epoch + 1; select setval('postbell.routed', 0); {rows}; commit")).await;
    assert_eq!(
        mesh.db.ask::<i64>("select count(*) from agent_messages where left_txid is not null").await,
        0
    );
    assert_eq!(left, mesh.db.ask::<String>(made).await);
    assert!(left.contains("3 a 5 ready") && left.contains("3 c 5 ready"), "{left}");
    // A group's inbox is no agent's name, whoever routes.
    until_leaving(&mesh).await;
    let refused = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ('a', 'group:g', 'data', '1')";
    let error = sql.batch_execute(refused).await.expect_err("no agent's");
    assert!(error.as_db_error().expect("the trigger's").message().contains("is no agent's"), "{error:?}");
}

#[tokio::test]
async fn the_order_of_one_writer_is_kept_however_it_writes() {
    let mesh = leaving().await;
    let (_client, mut deliveries) = mesh.connect("a", 500).await;
    let sql = mesh.db.sql().await;
    // Room in old pages, so that rows of one statement do not lie in the order in which they were written.
    run(&sql, &many(1, 900)).await;
    expect(&mut deliveries, 1..=900).await;
    until_over(&mesh).await;
    run(&sql, "delete from agent_messages where payload::int % 3 > 0").await;
    run(&sql, "vacuum agent_messages").await;
    let mut last = 0;
    let mut upto = |n: u32| {
        let from = last + 1;
        last += n;
        many(from, last)
    };
    let statements = [
        upto(1),
        upto(300),
        format!("begin; {} savepoint s; {} release s; {} commit;", upto(1), upto(40), upto(1)),
        format!("begin; {} savepoint s; {} rollback to s; {} commit;", upto(1), many(1, 40), upto(30)),
        format!("begin isolation level serializable; {} {} commit;", upto(2), upto(2)),
        upto(1),
        // More than a router is left in one transaction: the transaction routes itself.
        upto(5_000),
        upto(1),
        format!("begin; {} {} {} commit;", upto(1), upto(3_000), upto(1)),
        upto(1),
    ];
    for statement in statements {
        run(&sql, &statement).await;
    }
    for _ in 0..100 {
        run(&sql, &upto(1)).await;
    }
    expect(&mut deliveries, 1..=last).await;
    until_over(&mesh).await;
    assert!(
        mesh.db
            .ask::<bool>("select count(*) filter (where left_txid is null) > 7000 from agent_messages")
            .await
    );
    assert_eq!(mesh.metric("postbell_tail_late_total").await, 0.0);
}

#[tokio::test]
async fn a_busy_mesh_leaves_and_a_quiet_one_does_not() {
    let mesh = Mesh::with(&[("POSTBELL_ROUTING", "auto")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 500).await;
    let sql = mesh.db.sql().await;
    let mut sent = 0;
    // Busy until messages were left; then the load ends, and one who writes on and on learns nothing of it.
    while mesh.metric("postbell_routed_total").await == 0.0 {
        for _ in 0..20 {
            run(&sql, &many(sent + 1, sent + 20)).await;
            sent += 20;
        }
        expect(&mut deliveries, sent - 399..=sent).await;
    }
    let mut still = 0;
    while mesh.metric("postbell_router").await == 1.0 {
        still += 1;
        sent += 1;
        run(&sql, &many(sent, sent)).await;
        expect(&mut deliveries, sent..=sent).await;
        assert!(still < 100_000, "the router never gives its place back");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    mesh.db.until("select broker_id is null from postbell.router").await;
    let seen: i64 = mesh.db.ask("select pg_sequence_last_value('postbell.routed')").await;
    assert_eq!(seen, 0, "it was written that nothing is left");
    run(&sql, &many(sent + 1, sent + 1)).await;
    expect(&mut deliveries, sent + 1..=sent + 1).await;
    until_over(&mesh).await;
    let ways: BTreeMap<bool, i64> = sql
        .query("select left_txid is null, count(*) from agent_messages group by 1", &[])
        .await
        .expect("counts")
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    assert_eq!(ways.len(), 2, "both ways were taken: {ways:?}");
    let _ = mesh.stop().await;
}

#[tokio::test]
async fn who_commits_after_the_load_is_waited_for() {
    let mesh = leaving().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let (late, sql) = (mesh.db.sql().await, mesh.db.sql().await);
    run(&late, &format!("begin; {}", many(2, 2))).await;
    // The broker that has it left is gone, and another one never has anything left to it.
    let (db, _) = mesh.stop().await;
    let mesh = Mesh::on(db, &[("POSTBELL_ROUTING", "never")]).await;
    let (_client, mut again) =
        mesh.builder("a", &renew(&mesh).await).window(10).connect().await.expect("connects");
    drop(deliveries.next());
    run(&sql, &many(1, 1)).await;
    expect(&mut again, 1..=1).await;
    mesh.until_metric("postbell_router", |n| n == 1.0).await;
    run(&late, "commit").await;
    expect(&mut again, 2..=2).await;
    until_over(&mesh).await;
    mesh.db.until("select broker_id is null from postbell.router").await;
    mesh.until_metric("postbell_router", |n| n == 0.0).await;
}

/// A transaction that was too large to be left routes itself; the router still sees to what became of its rows.
#[tokio::test]
async fn a_transaction_that_routed_itself_may_change_its_rows() {
    let mesh = leaving().await;
    let (_client, mut deliveries) = mesh.connect("a", 2_000).await;
    let (_other, mut others) = mesh.connect("b", 10).await;
    let sql = mesh.db.sql().await;
    let elsewhere = many(1, 1_500).replace("'a'", "'nobody'");
    let readdressed = "update agent_messages set to_agent_id = 'b' where payload in ('1', '1500')";
    let gone = "delete from agent_messages where to_agent_id = 'nobody'";
    run(&sql, &format!("begin; {elsewhere} {readdressed}; {gone}; commit")).await;
    let mut come = Vec::new();
    for _ in 0..2 {
        let delivery = next(&mut others).await;
        come.push(delivery.payload().to_string());
        delivery.ack().await;
    }
    come.sort();
    assert_eq!(come, ["1", "1500"]);
    let back = "update agent_messages set status = 'processed' where payload in ('1601', '3100');
                update agent_messages set status = 'pending' where payload in ('1601', '3100')";
    run(&sql, &format!("begin; {} {back}; commit", many(1_601, 3_100))).await;
    run(&sql, &format!("begin; {} reset all; {} commit", many(3_101, 4_600), many(4_601, 4_601))).await;
    let mut left: std::collections::BTreeSet<u32> = (1_601..=4_601).collect();
    while !left.is_empty() {
        let delivery = next(&mut deliveries).await;
        assert!(
            left.remove(&delivery.payload().parse().expect("a number")),
            "{} came twice",
            delivery.payload()
        );
        delivery.ack().await;
    }
    until_over(&mesh).await;
}

/// The default of a row may be evaluated before a trigger of the user's inserts others, which are routed.
#[tokio::test]
async fn a_users_trigger_inserts_messages_while_a_row_is_written() {
    let mesh = leaving().await;
    let (_client, mut deliveries) = mesh.connect("a", 2_000).await;
    let sql = mesh.db.sql().await;
    run(
        &sql,
        "create function more() returns trigger language plpgsql as $$ begin
           if pg_trigger_depth() = 1 then
             insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
               select 's', 'nobody', 'data', '0' from generate_series(1, 2);
           end if; return new; end $$;
         create trigger more before insert on agent_messages for each row execute function more()",
    )
    .await;
    run(&sql, &many(1, 600)).await;
    let mut left: std::collections::BTreeSet<u32> = (1..=600).collect();
    while !left.is_empty() {
        let delivery = next(&mut deliveries).await;
        assert!(
            left.remove(&delivery.payload().parse().expect("a number")),
            "{} came twice",
            delivery.payload()
        );
        delivery.ack().await;
    }
}

/// A transaction that left a message and stays open while the load ends: nothing that is written after its commit overtakes the
/// message.
#[tokio::test]
async fn a_message_that_commits_late_is_not_overtaken() {
    let mesh = Mesh::with(&[("POSTBELL_ROUTING", "auto")]).await;
    let (_client, mut deliveries) = mesh.connect("a", 500).await;
    let (sql, late) = (mesh.db.sql().await, mesh.db.sql().await);
    let mut sent = 0;
    while mesh.metric("postbell_routed_total").await == 0.0 {
        for _ in 0..20 {
            run(&sql, &many(sent + 1, sent + 20)).await;
            sent += 20;
        }
        expect(&mut deliveries, sent - 399..=sent).await;
    }
    run(&late, &format!("begin; {}", many(sent + 1, sent + 1))).await;
    // The load is over, and the router waits for this transaction.
    mesh.db
        .until("select pg_sequence_last_value('postbell.routed') between 1 and extract(epoch from clock_timestamp()) * 1000 - 300")
        .await;
    run(&late, &format!("commit; {}", many(sent + 2, sent + 2))).await;
    expect(&mut deliveries, sent + 1..=sent + 2).await;
    mesh.db.until("select broker_id is null from postbell.router").await;
    until_over(&mesh).await;
}

/// A new token for `a`.
async fn renew(mesh: &Mesh) -> String {
    postbell::store::agents::rotate(&mesh.db.pool(), "a", std::time::Duration::ZERO)
        .await
        .expect("rotated")
        .reveal()
        .to_owned()
}
