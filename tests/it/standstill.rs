//! A duty that stands still is reported wherever somebody looks, and all is well again once the cause is gone.

use postbell::store::doctor::{Level, examine};
use tokio::time::{sleep, timeout};

use crate::harness::{TestDb, fresh, migrated};
use crate::mesh::{Mesh, PATIENCE, get, insert};
use crate::rehearsal::{owned, owner_url};

/// The duties without which a broker is not ready. Others need the same tables and rights, and so may stand still beside one.
const DUTIES: &[&str] = &["tail", "refill", "settle", "promotion", "presence", "schema"];

async fn standstill(mesh: &Mesh, duty: &str) -> f64 {
    mesh.metric(&format!("postbell_standstill_seconds{{duty=\"{duty}\"}}")).await
}

/// Everybody who looks is told of this duty, in the duty's own sentence, with the reason. No other of [`DUTIES`] is told.
pub(crate) async fn is_told(mesh: &Mesh, admin: &TestDb, duty: &str, parts: &[&str]) {
    let mut body = String::new();
    let looking = async {
        loop {
            let status;
            (status, body) = get(mesh.http, "/health/ready").await;
            if status == 503 && parts.iter().all(|part| body.contains(part)) {
                return;
            }
            sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let told = timeout(PATIENCE, looking).await.is_ok();
    assert!(told, "/health/ready never said {parts:?}, but {body}");
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
    let text = get(mesh.http, "/metrics").await.1;
    let series: Vec<&str> =
        text.lines().filter(|line| line.starts_with("postbell_standstill_seconds{")).collect();
    assert!(series.len() > DUTIES.len(), "{text}");
    assert!(series.iter().all(|line| line.ends_with(" 0")), "{series:?}");
    admin.until("select bool_and(standstill is null) from postbell.brokers").await;
    let checks = examine(&admin.target()).await;
    let said: Vec<_> = checks.iter().filter(|c| c.check == "brokers").collect();
    assert!(said.iter().all(|c| c.level == Level::Ok), "{said:?}");
}

/// A broker whose role owns the tables and is no superuser. The first handle sees the tables as a superuser.
pub(crate) async fn owned_mesh() -> (TestDb, Mesh) {
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

#[tokio::test]
async fn a_right_that_somebody_took_stops_the_settling() {
    let (admin, mesh) = owned_mesh().await;
    let mut a = mesh.raw("a", 5).await;
    let sql = admin.sql().await;
    insert(&sql, "a", 5, "1").await;
    let tag = a.expect("msg").await["tag"].clone();
    // An ack is the only thing that deletes a delivery here; a lock would stop promotion as well.
    sql.batch_execute("revoke delete on postbell.deliveries from mesh_owner").await.expect("revoked");
    a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"x"}}"#)).await;
    let parts = ["Outcomes have not been written for ", "lacks a right", "1 outcomes wait to be written"];
    is_told(&mesh, &admin, "settle", &parts).await;
    // Others are served meanwhile, as far as they acknowledge nothing.
    insert(&sql, "a", 5, "2").await;
    assert_eq!(a.expect("msg").await["payload"], 2);
    sql.batch_execute("grant delete on postbell.deliveries to mesh_owner").await.expect("granted");
    a.expect("acked").await;
    let left = "select string_agg(payload::text, ', ') from postbell.deliveries join agent_messages using (message_id)";
    assert_eq!(admin.ask::<String>(left).await, "2");
    all_is_well(&mesh, &admin).await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_registry_that_somebody_locks_stops_presence() {
    let admin = migrated().await;
    let token = admin.agent("a").await;
    let mesh = Mesh::on(admin.clone(), &[]).await;
    let sql = admin.sql().await;
    sql.batch_execute("begin; lock table agent_registry in share mode").await.expect("locked");
    let mut a = mesh.raw_with("a", &token, 5).await;
    is_told(&mesh, &admin, "presence", &["Presence has not been written to the registry for "]).await;
    // The agent's messages come all the same.
    insert(&admin.sql().await, "a", 5, "1").await;
    assert_eq!(a.expect("msg").await["payload"], 1);
    sql.batch_execute("rollback").await.expect("unlocked");
    admin.until("select status = 'online' from agent_registry where agent_id = 'a'").await;
    all_is_well(&mesh, &admin).await;
    mesh.stop().await;
}
