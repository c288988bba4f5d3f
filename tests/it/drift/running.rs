//! A running broker notices drift by itself.

use super::run;
use crate::mesh::{Mesh, insert, next};

#[tokio::test]
async fn a_running_broker_mends_what_is_dropped_under_it() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let client = mesh.db.client().await;
    let sql = mesh.db.sql().await;
    for break_it in [
        "drop function postbell.route_messages() cascade",
        "drop view postbell.messages cascade",
        "drop sequence postbell.bell cascade",
        "alter table agent_messages drop column topic cascade",
    ] {
        run(&client, break_it).await;
        insert(&sql, "a", 5, "1").await;
        let delivery = next(&mut deliveries).await;
        delivery.ack_confirmed().await.expect("acknowledged");
    }
    mesh.until_ready(true).await;
    let _ = mesh.stop().await;
}

#[tokio::test]
async fn readiness_names_a_trigger_that_is_off_and_messages_come_all_the_same() {
    let mesh = Mesh::start().await;
    let (_client, mut deliveries) = mesh.connect("a", 10).await;
    let client = mesh.db.client().await;
    let sql = mesh.db.sql().await;
    run(&client, "alter table agent_messages disable trigger postbell_route").await;
    // A failing statement makes the broker compare at once; otherwise it compares once a minute.
    postbell::store::drift::note_smell();
    insert(&sql, "a", 5, "1").await;
    next(&mut deliveries).await.ack_confirmed().await.expect("acknowledged");
    let body = mesh.until_ready(false).await;
    assert!(body.contains("postbell_route on agent_messages is disabled"), "{body}");
    insert(&sql, "a", 5, "2").await;
    next(&mut deliveries).await.ack_confirmed().await.expect("acknowledged");
    run(&client, "alter table agent_messages enable trigger postbell_route").await;
    mesh.until_ready(true).await;
    let _ = mesh.stop().await;
}
