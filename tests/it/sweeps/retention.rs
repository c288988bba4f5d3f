//! Messages that ended long ago are removed, whatever is beside them.

use super::{Fault, RAISES, SLEEPS, each};
use crate::harness::{TestDb, fresh, migrated};
use crate::mesh::Mesh;
use crate::rehearsal::{owned, owner_url};

/// Messages of one instant that are kept no longer: one to `a`, and 19 to `u`.
const OLD: &str = "
    insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, status, created_at, processed_at)
    select 'sql', case n when 7 then 'a' else 'u' end, 'data', to_jsonb(n), 'processed',
           now() - interval '9 days', now() - interval '9 days'
    from generate_series(1, 20) n";
const REMOVED: &str = "select count(*) = 0 from agent_messages where to_agent_id = 'u'";
const TO_A: &str = "select count(*) from agent_messages where to_agent_id = 'a'";

#[tokio::test]
async fn a_message_that_cannot_be_removed_keeps_no_other() {
    let of_messages =
        Fault::all("agent_messages", "delete", "old.to_agent_id = 'a'", ("payload", "read = '7'"));
    each(of_messages, all_but_one_are_removed).await;
}

async fn all_but_one_are_removed(Fault { name, ddl }: Fault) {
    let admin = fresh().await;
    let owner = owned(&admin, &admin.client().await).await;
    postbell::store::migrate::migrate(&owner).await.expect("migrates");
    admin.sql().await.batch_execute(&format!("{OLD}; {ddl}")).await.expect(&name);
    let mesh = Mesh::on(TestDb::at(owner_url(&admin)), &[]).await;
    admin.until(&format!("{REMOVED} -- {name}")).await;
    assert_eq!(admin.ask::<i64>(TO_A).await, 1, "{name}");
    mesh.stop().await;
}

/// Two faults at once: one is found by a block for each row, the other by halves.
#[tokio::test]
async fn neither_do_two() {
    let refused = Fault::trigger("agent_messages", "delete", "old.payload = '3'", RAISES)
        .ddl
        .replace("fault", "refused");
    let slow = Fault::deferred("agent_messages", "delete", "old.to_agent_id = 'a'", SLEEPS).ddl;
    let db = migrated().await;
    db.sql().await.batch_execute(&format!("{OLD}; {refused}; {slow}")).await.expect("two faults");
    let mesh = Mesh::on(db, &[]).await;
    mesh.db.until("select count(*) = 2 from agent_messages").await;
    let left = "select string_agg(payload::text, ' ' order by payload) from agent_messages";
    assert_eq!(mesh.db.ask::<String>(left).await, "3 7");
    mesh.stop().await;
}

/// While nothing can be removed from one table, others are.
#[tokio::test]
async fn a_table_that_is_locked_keeps_what_is_in_no_other() {
    let db = migrated().await;
    let locker = db.sql().await;
    let others = "
        insert into postbell.locks (key, agent_id, until) values ('old', 'x', now() - interval '1 year');
        insert into postbell.presence_history (agent_id, status, since, until)
          values ('old', 'online', now() - interval '2 years', now() - interval '1 year');
        insert into postbell.set_aside (inbox, kind, status, reason, next_try)
          values ('old', 'presence', 'online', 'x', now() - interval '1 year')";
    locker.batch_execute(others).await.expect("old rows");
    locker.batch_execute("begin; lock table agent_messages in share mode").await.expect("locked");
    let mesh = Mesh::on(db, &[]).await;
    for table in ["locks", "presence_history", "set_aside"] {
        mesh.db.until(&format!("select count(*) = 0 from postbell.{table}")).await;
    }
    let retention = "postbell_standstill_seconds{duty=\"retention\"}";
    mesh.until_metric(retention, |seconds| seconds >= 5.0).await;
    locker.batch_execute("rollback").await.expect("unlocked");
    mesh.until_metric(retention, |seconds| seconds == 0.0).await;
    mesh.stop().await;
}
