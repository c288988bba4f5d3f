//! A registry that keeps an agent's presence out without an error: an operator hears of it, and of its cause.

use crate::mesh::Mesh;
use crate::settle::{Two, adopted, doctor_says};

const ONLINE: &str =
    "select status = 'online' and connected_to is not null from agent_registry where agent_id = ";
const KEEPER: &str = "
    create function keep() returns trigger language plpgsql as $$
      begin if new.agent_id = 'a' then return null; end if; return new; end $$;
    create trigger keeper before update on agent_registry for each row execute function keep()";

async fn is_told(mesh: &Mesh, name: &str) {
    mesh.db
        .until(
            "select count(*) = 1 and bool_and(inbox = 'a') from postbell.set_aside where kind = 'presence'",
        )
        .await;
    doctor_says(&mesh.db, &["presence of 1 agents", "such as a", name, "without an error"]).await;
    mesh.until_metric("postbell_set_aside{kind=\"presence\"}", |n| n == 1.0).await;
}

#[tokio::test]
async fn a_trigger_that_gives_null_is_named() {
    let two = Two::after(KEEPER).await;
    is_told(&two.mesh, "the trigger keeper of agent_registry").await;
    two.mesh.db.until(&format!("{ONLINE}'u'")).await;
    // Once the registry is mended, presence is written again by itself.
    two.mesh.db.sql().await.batch_execute("drop trigger keeper on agent_registry").await.unwrap();
    two.mesh.db.until(&format!("{ONLINE}'a'")).await;
    two.mesh.stop().await;
}

#[tokio::test]
async fn so_is_one_that_came_later_and_keeps_heartbeats_out() {
    let two = Two::after("select 1").await;
    two.mesh.db.until(&format!("{ONLINE}'a'")).await;
    two.mesh.db.sql().await.batch_execute(KEEPER).await.unwrap();
    is_told(&two.mesh, "the trigger keeper of agent_registry").await;
    two.mesh.stop().await;
}

#[tokio::test]
async fn so_is_a_rule() {
    let rule =
        "create rule keeper as on update to agent_registry where new.agent_id = 'a' do instead nothing";
    let two = Two::after(rule).await;
    is_told(&two.mesh, "the rule keeper of agent_registry").await;
    two.mesh.db.until(&format!("{ONLINE}'u'")).await;
    two.mesh.stop().await;
}

/// A row that somebody holds for a while does not count as kept out.
#[tokio::test]
async fn a_row_that_is_held_is_not_told_of() {
    let db = adopted().await;
    let token = db.agent("a").await;
    let holder = db.sql().await;
    holder.batch_execute("begin; select from agent_registry where agent_id = 'a' for update").await.unwrap();
    let mesh = Mesh::on(db, &[]).await;
    let _a = mesh.raw_with("a", &token, 1).await;
    let u = mesh.raw("u", 1).await;
    mesh.db.until(&format!("{ONLINE}'u'")).await;
    holder.batch_execute("commit").await.unwrap();
    // The next heartbeats write it.
    mesh.db.until(&format!("{ONLINE}'a'")).await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.set_aside").await, 0);
    drop(u);
    mesh.stop().await;
}
