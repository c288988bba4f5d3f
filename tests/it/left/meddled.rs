//! Messages that are changed while their router may be reading them, and rows at which a router fails.

use super::{ALWAYS, expect, leaving, many, run, until_over};
use crate::harness::migrated;
use crate::mesh::{Mesh, next};

/// The router stands still, with everything left that is written meanwhile: its row is held.
async fn stand_still(mesh: &Mesh) -> tokio_postgres::Client {
    let holder = mesh.db.sql().await;
    run(&holder, "begin; select from postbell.router for update").await;
    holder
}

#[tokio::test]
async fn a_message_that_ends_before_it_is_routed_is_not_delivered() {
    let changes = [
        "update agent_messages set status = 'processed' where payload = '1'",
        "update agent_messages set status = 'failed' where payload = '1'",
        "update agent_messages set status = 'done by hand' where payload = '1'",
        "delete from agent_messages where payload = '1'",
        "update agent_messages set status = 'delivered' where payload = '1'; update agent_messages set status = 'processed' where payload = '1'",
    ];
    for change in changes {
        let mesh = leaving().await;
        let (_client, mut deliveries) = mesh.connect("a", 10).await;
        let sql = mesh.db.sql().await;
        run(&sql, "alter table agent_messages drop constraint agent_messages_status_check").await;
        let holder = stand_still(&mesh).await;
        run(&sql, &many(1, 1)).await;
        // The router's statement has its snapshot, and shows the message as it was.
        mesh.db.until("select exists (select from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()
                                      and query like '%postbell.route(%')").await;
        run(&sql, change).await;
        run(&holder, "commit").await;
        run(&sql, &many(2, 2)).await;
        // The message may come, since the router had read it; its delivery is not there for ever.
        mesh.db.until("select count(*) = 0 from postbell.unseen").await;
        loop {
            let delivery = next(&mut deliveries).await;
            let payload = delivery.payload().to_string();
            delivery.ack_confirmed().await.expect("acknowledged");
            if payload == "2" {
                break;
            }
        }
        mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
        assert_eq!(
            mesh.db
                .ask::<i64>("select count(*) from agent_messages where status in ('pending', 'delivered')")
                .await,
            0,
            "{change}"
        );
    }
}

#[tokio::test]
async fn what_is_set_back_before_it_is_routed_is_delivered() {
    let mesh = leaving().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    let holder = stand_still(&mesh).await;
    run(&sql, &many(1, 1)).await;
    run(&sql, "update agent_messages set status = 'processed'; update agent_messages set status = 'pending'")
        .await;
    run(&holder, "commit").await;
    expect(&mut deliveries, 1..=1).await;
    until_over(&mesh).await;
    mesh.db.until("select count(*) = 0 from postbell.unseen").await;
}

#[tokio::test]
async fn what_is_being_routed_is_not_readdressed() {
    let mesh = leaving().await;
    let sql = mesh.db.sql().await;
    let holder = stand_still(&mesh).await;
    run(&sql, &many(1, 1)).await;
    let error = sql.batch_execute("update agent_messages set to_agent_id = 'b'").await.expect_err("refused");
    let error = error.as_db_error().expect("the trigger's");
    assert!(error.message().contains("cannot be readdressed: it is being routed"), "{error:?}");
    run(&holder, "commit").await;
    mesh.db
        .until("select not exists (select from agent_messages m where postbell.is_left(m.left_txid))")
        .await;
    run(&sql, "update agent_messages set to_agent_id = 'b'").await;
    // Within the transaction that wrote it nobody reads it yet.
    run(
        &sql,
        &format!(
            "begin; {} update agent_messages set to_agent_id = 'b' where payload = '2'; commit",
            many(2, 2)
        ),
    )
    .await;
    let (_client, mut deliveries) = mesh.connect("b", 10).await;
    expect(&mut deliveries, 1..=2).await;
    until_over(&mesh).await;
}

#[tokio::test]
async fn one_row_that_cannot_be_routed_holds_up_no_other() {
    let faults = crate::harness::TRIGGER_FAULTS;
    for fault in faults {
        let mesh = leaving().await;
        let (_client, mut deliveries) = mesh.connect("a", 10).await;
        let sql = mesh.db.sql().await;
        run(
            &sql,
            &format!(
                "create function hurts() returns trigger language plpgsql as $$ begin
                   if (select payload = '2' from public.agent_messages where message_id = new.message_id) then {fault}; end if; return new; end $$;
                 create trigger hurts before insert on postbell.deliveries for each row execute function hurts()"
            ),
        )
        .await;
        run(&sql, &many(1, 3)).await;
        let mut come = Vec::new();
        while come.len() < 2 {
            let delivery = next(&mut deliveries).await;
            come.push(delivery.payload().to_string());
            delivery.ack().await;
        }
        come.sort();
        assert_eq!(come, ["1", "3"], "{fault}");
        // Others are routed as well, by whomever.
        run(&sql, &many(4, 4)).await;
        expect(&mut deliveries, 4..=4).await;
        // The operator is told of the one.
        mesh.until_told("1 messages can have no delivery").await;
        assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.unseen").await, 1, "{fault}");
    }
}

#[tokio::test]
async fn nothing_is_left_where_messages_could_be_hidden() {
    let db = migrated().await;
    let sql = db.sql().await;
    run(&sql, "create role narrow; grant create, usage on schema public to narrow; alter table agent_messages owner to narrow;
               alter table agent_messages force row level security; alter view postbell.messages owner to narrow;
               grant usage on schema postbell to narrow").await;
    assert!(db.ask::<bool>("select postbell.may_hide()").await);
    let mesh = Mesh::on(db, &[ALWAYS]).await;
    assert!(mesh.db.ask::<bool>("select epoch is null from postbell.take_routing(gen_random_uuid())").await);
    assert!(mesh.db.ask::<bool>("select broker_id is null from postbell.router").await);
    run(&sql, "drop owned by narrow cascade; drop role narrow").await;
}

#[tokio::test]
async fn what_is_hidden_for_a_while_is_routed_after_that() {
    let mesh = leaving().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    run(&sql, "create role narrow_for_a_while; grant create, usage on schema public to narrow_for_a_while; grant usage on schema postbell to narrow_for_a_while;
               grant all on agent_messages to narrow_for_a_while").await;
    // The view reads as a role from which the messages are hidden, from this statement on.
    run(&sql, "alter table agent_messages enable row level security; alter view postbell.messages owner to narrow_for_a_while").await;
    run(&sql, &many(1, 3)).await;
    mesh.db.until("select coalesce(pg_sequence_last_value('postbell.routed'), 0) < extract(epoch from clock_timestamp()) * 1000").await;
    run(&sql, "alter view postbell.messages owner to current_user").await;
    expect(&mut deliveries, 1..=3).await;
    run(&sql, "drop owned by narrow_for_a_while cascade; drop role narrow_for_a_while").await;
}

#[tokio::test]
async fn a_chosen_transaction_delays_nobody() {
    let mesh = leaving().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let sql = mesh.db.sql().await;
    for (n, chosen) in ["'3'", "'9000000000000000000'", "null", "pg_snapshot_xmin(pg_current_snapshot())"]
        .into_iter()
        .enumerate()
    {
        let n = n as u32 * 2;
        run(
            &sql,
            &format!(
                "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, left_txid) values ('s', 'a', 'data', '{n}', {chosen}::xid8)"
            ),
        )
        .await;
        run(&sql, &many(n + 1, n + 1)).await;
        expect(&mut deliveries, n..=n + 1).await;
    }
    until_over(&mesh).await;
}
