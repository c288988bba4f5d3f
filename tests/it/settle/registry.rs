//! A registry that refuses or holds the row of one agent keeps no other agent's presence out.

use postbell::store::agents::{self, NewAgent, authenticate};

use super::{Two, adopted, doctor_says};
use crate::mesh::Mesh;

const ONLINE: &str =
    "select status = 'online' and last_heartbeat > now() - interval '60 seconds' and connected_to is not null
                      from agent_registry where agent_id = ";

#[tokio::test]
async fn a_trigger_that_refuses_one_agent_keeps_the_presence_of_no_other() {
    let two = Two::after(
        "create function refuse() returns trigger language plpgsql as $$
         begin if new.agent_id = 'a' then raise exception 'no'; end if; return new; end $$;
         create trigger refuse before update on agent_registry for each row execute function refuse()",
    )
    .await;
    two.mesh.db.until(&format!("{ONLINE}'u'")).await;
    two.mesh
        .db
        .until("select count(*) = 1 from postbell.set_aside where kind = 'presence' and inbox = 'a'")
        .await;
    two.mesh.until_metric("postbell_set_aside{kind=\"presence\"}", |n| n == 1.0).await;
    doctor_says(&two.mesh.db, &["presence of 1 agents", "such as a", "the trigger refuse of agent_registry"])
        .await;
    // The agent's heartbeats go on: the next one is ten seconds later.
    two.mesh
        .db
        .sql()
        .await
        .batch_execute("update agent_registry set last_heartbeat = 'epoch' where agent_id = 'u'")
        .await
        .unwrap();
    two.mesh.db.until(&format!("{ONLINE}'u'")).await;
    // Once the registry is mended, presence is written again by itself.
    two.mesh.db.sql().await.batch_execute("drop trigger refuse on agent_registry").await.unwrap();
    two.mesh.db.until(&format!("{ONLINE}'a'")).await;
    two.mesh.stop().await;
}

#[tokio::test]
async fn a_check_with_other_words_leaves_the_status_out() {
    let db = adopted().await;
    let token = db.agent("u").await;
    let ddl = "alter table agent_registry drop constraint agent_registry_status_check;
               alter table agent_registry add check (status in ('up', 'down')) not valid";
    db.sql().await.batch_execute(ddl).await.unwrap();
    // A row whose status is none of the table's words takes no change at all, so it takes no token: the refusal names
    // the constraint.
    let known = NewAgent { agent_id: "validation-agent", ..NewAgent::default() };
    let refused = agents::add(&db.pool(), &known).await.expect_err("its row takes no change");
    assert!(refused.to_string().contains("agent_registry_status_check"), "{refused}");
    db.sql()
        .await
        .batch_execute(
            "alter table agent_registry disable trigger user; update agent_registry set status = 'up'",
        )
        .await
        .unwrap();
    db.sql().await.batch_execute("alter table agent_registry enable trigger user").await.unwrap();
    // An agent that is there without a token gets one, and keeps the table's word; one that has a token keeps that token.
    let added = agents::add(&db.pool(), &known).await.expect("a token");
    assert!(!added.is_new);
    let kept = "select status = 'up' and token_hash is not null from agent_registry where agent_id = 'validation-agent'";
    assert!(db.ask::<bool>(kept).await);
    let refused = agents::add(&db.pool(), &known).await.expect_err("it has a token");
    assert!(refused.to_string().contains("agent rotate"), "{refused}");
    authenticate(&db.pool(), "validation-agent", added.token.reveal())
        .await
        .unwrap()
        .expect("its token is the first");
    let mesh = Mesh::on(db, &[]).await;
    let _raw = mesh.raw_with("u", &token, 5).await;
    mesh.db.until("select status = 'up' and last_heartbeat > now() - interval '1 minute' and connected_to is not null
                   from agent_registry where agent_id = 'u'").await;
    mesh.db
        .until("select count(*) = 1 from postbell.set_aside where kind = 'presence' and inbox = 'u'")
        .await;
    doctor_says(&mesh.db, &["agent_registry_status_check"]).await;
    mesh.stop().await;
}

#[tokio::test]
async fn generated_columns_of_the_registry_are_left_out() {
    let two = Two::after(
        "alter table agent_registry drop column updated_at;
         alter table agent_registry add updated_at timestamptz generated always as (last_heartbeat) stored",
    )
    .await;
    two.mesh.db.until(&format!("{ONLINE}'a'")).await;
    two.mesh.db.until(&format!("{ONLINE}'u'")).await;
    let db = &two.mesh.db;
    db.agent("new").await;
    agents::rotate(&db.pool(), "new", std::time::Duration::ZERO).await.expect("rotated");
    assert!(agents::set_enabled(&db.pool(), "new", false).await.expect("disabled"));
    assert_eq!(db.ask::<i64>("select count(*) from postbell.set_aside").await, 0);
    two.mesh.stop().await;
}

#[tokio::test]
async fn a_row_of_the_registry_that_somebody_holds_is_written_later() {
    let db = adopted().await;
    let tokens = [db.agent("a").await, db.agent("u").await];
    let holder = db.sql().await;
    holder.batch_execute("begin; select from agent_registry where agent_id = 'a' for update").await.unwrap();
    let mesh = Mesh::on(db, &[]).await;
    let _a = mesh.raw_with("a", &tokens[0], 5).await;
    let _u = mesh.raw_with("u", &tokens[1], 5).await;
    mesh.db.until(&format!("{ONLINE}'u'")).await;
    holder.batch_execute("rollback").await.unwrap();
    mesh.db.until(&format!("{ONLINE}'a'")).await;
    mesh.stop().await;
}
