//! A duty that stands still is reported wherever somebody looks, and all is well again once the cause is gone.

use postbell::store::doctor::{Level, examine};
use tokio::time::{sleep, timeout};

use crate::harness::{TestDb, fresh, migrated};
use crate::mesh::{Mesh, PATIENCE, get, insert};
use crate::rehearsal::{owned, owner_url};

const DUTIES: &[&str] = &["tail", "refill", "settle", "promotion", "presence", "schema"];

async fn standstill(mesh: &Mesh, duty: &str) -> f64 {
    mesh.metric(&format!("postbell_standstill_seconds{{duty=\"{duty}\"}}")).await
}

/// Everybody who looks is told of this duty and of no other, in the duty's own sentence, with the reason.
async fn is_told(mesh: &Mesh, admin: &TestDb, duty: &str, parts: &[&str]) {
    let looking = async {
        loop {
            let (status, body) = get(mesh.http, "/health/ready").await;
            if status == 503 && parts.iter().all(|part| body.contains(part)) {
                return;
            }
            sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("/health/ready never said {parts:?}"));
    for other in DUTIES {
        let seconds = standstill(mesh, other).await;
        // A standstill counts from five seconds on.
        assert!(if *other == duty { seconds >= 5.0 } else { seconds == 0.0 }, "{other}: {seconds}");
    }
    admin.until("select bool_or(standstill is not null) from postbell.brokers").await;
    let checks = examine(&admin.target()).await;
    let said: Vec<_> = checks.iter().filter(|c| c.check == "brokers").collect();
    assert!(said.len() == 1 && said[0].level == Level::Fail, "{said:?}");
    for part in parts.iter().chain(&["stands still"]) {
        assert!(said[0].sentence.contains(part), "doctor does not say {part}: {said:?}");
    }
}

/// Nobody is told of a standstill any more.
async fn all_is_well(mesh: &Mesh, admin: &TestDb) {
    mesh.until_ready(true).await;
    for duty in DUTIES {
        assert_eq!(standstill(mesh, duty).await, 0.0, "{duty}");
    }
    admin.until("select bool_and(standstill is null) from postbell.brokers").await;
    let checks = examine(&admin.target()).await;
    let said: Vec<_> = checks.iter().filter(|c| c.check == "brokers").collect();
    assert!(said.iter().all(|c| c.level == Level::Ok), "{said:?}");
}

/// A broker whose role owns the tables and is no superuser. The first handle sees the tables as a superuser.
async fn owned_mesh() -> (TestDb, Mesh) {
    let admin = fresh().await;
    let owner = owned(&admin, &admin.client().await).await;
    postbell::store::migrate::migrate(&owner).await.expect("migrates");
    let mesh = Mesh::on(TestDb::at(owner_url(&admin)), &[]).await;
    (admin, mesh)
}

#[tokio::test]
async fn a_right_that_somebody_took_stops_the_tail() {
    let (admin, mesh) = owned_mesh().await;
    let mut a = mesh.raw("a", 5).await;
    let sql = admin.sql().await;
    insert(&sql, "a", 5, "1").await;
    a.expect("msg").await;
    sql.batch_execute("revoke select on agent_messages from mesh_owner").await.expect("revoked");
    let parts = ["New messages have not been read for ", "permission denied", "agent_messages"];
    is_told(&mesh, &admin, "tail", &parts).await;
    insert(&sql, "a", 5, "2").await;
    sql.batch_execute("grant select on agent_messages to mesh_owner").await.expect("granted");
    assert_eq!(a.expect("msg").await["payload"], 2);
    all_is_well(&mesh, &admin).await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_function_of_a_policy_that_raises_stops_the_refills() {
    let (admin, mesh) = owned_mesh().await;
    let sql = admin.sql().await;
    let watched = |body: &str| {
        format!(
            "create or replace function watched(recipient text) returns boolean language plpgsql as $$
             begin {body} return true; end $$"
        )
    };
    sql.batch_execute(&watched("")).await.expect("a function");
    sql.batch_execute(
        "create policy watched on agent_messages using (watched(to_agent_id)) with check (true);
         alter table agent_messages force row level security",
    )
    .await
    .expect("a policy that binds the owner");
    // The message waits in the table, as no agent is there for whom the tail would read it.
    insert(&sql, "a", 5, "1").await;
    sql.batch_execute(&watched("raise exception 'not today';")).await.expect("another function");
    let mut a = mesh.raw("a", 5).await;
    is_told(&mesh, &admin, "refill", &["Waiting messages have not been read for ", "watched"]).await;
    sql.batch_execute(&watched("")).await.expect("the function as it was");
    assert_eq!(a.expect("msg").await["payload"], 1);
    all_is_well(&mesh, &admin).await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_table_that_somebody_locks_stops_the_promotion() {
    let admin = migrated().await;
    let mesh = Mesh::on(admin.clone(), &[]).await;
    let mut a = mesh.raw("a", 5).await;
    let sql = admin.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, deliver_at)
         values ('sql', 'a', 'data', '1', now() + interval '1 second')",
    )
    .await
    .expect("scheduled");
    // The lock of a CREATE INDEX, for as long as that takes: all may read, and nobody may write.
    sql.batch_execute("begin; lock table postbell.deliveries in share mode").await.expect("locked");
    is_told(&mesh, &admin, "promotion", &["Scheduled messages have not become ready for "]).await;
    sql.batch_execute("rollback").await.expect("unlocked");
    assert_eq!(a.expect("msg").await["payload"], 1);
    all_is_well(&mesh, &admin).await;
    mesh.stop().await;
}
