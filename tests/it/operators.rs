//! The status page's API: who may do what, and the operators' actions.

use serde_json::json;

use crate::mesh::{Mesh, next};
use crate::status::{JSON, OPERATOR, VIEWER, ask, bury, get, mesh, post};

async fn dead(mesh: &Mesh) -> i64 {
    mesh.db.ask("select count(*) from postbell.deliveries where state = 'dead'").await
}

#[tokio::test]
async fn everybody_may_what_they_may_and_no_more() {
    let local = mesh("local").await;
    let me =
        async |mesh: &Mesh, headers: &[(&str, &str)]| get(mesh, "/api/me", headers).await.1["may"].clone();
    assert_eq!(me(&local, &[]).await, "look");
    // A page from elsewhere whose name resolves to this machine, and a request through a proxy.
    for other in [("host", "evil.example"), ("x-forwarded-for", "203.0.113.9")] {
        assert_eq!(me(&local, &[other]).await, "nothing");
        assert_eq!(get(&local, "/api/mesh", &[other]).await.0, 401);
        assert_eq!(ask(local.http, "GET /api/events", &[other], "").await.status(), 401);
    }
    assert_eq!(me(&local, &[VIEWER, ("host", "evil.example")]).await, "read");
    assert_eq!(me(&local, &[OPERATOR]).await, "operate");
    assert_eq!(
        get(&local, "/api/me", &[("authorization", "Bearer wrong")]).await.0,
        401,
        "even where one may look"
    );
    assert_eq!(get(&local, "/api/me", &[("authorization", "Basic dTpw")]).await.0, 401);

    let public = mesh("public").await;
    assert_eq!(me(&public, &[("host", "mesh.example"), ("x-forwarded-for", "203.0.113.9")]).await, "look");
    assert_eq!(get(&public, "/api/dead", &[]).await.0, 401);
    let token = mesh("token").await;
    assert_eq!(get(&token, "/api/mesh", &[]).await.0, 401);
    assert_eq!(get(&token, "/api/mesh", &[VIEWER]).await.0, 200);
    assert_eq!(
        ask(token.http, "GET /", &[], "").await.status(),
        200,
        "the page has nothing of the mesh in it"
    );
    let off = mesh("off").await;
    for path in ["GET /", "GET /api/mesh", "GET /page/main.js"] {
        assert_eq!(ask(off.http, path, &[OPERATOR], "").await.status(), 404);
    }
}

#[tokio::test]
async fn an_orchestrator_operates_by_its_own_token_and_other_agents_see_nothing() {
    let mesh = mesh("token").await;
    bury(&mesh, "gone", 1).await;
    let chief = format!("Bearer {}", mesh.db.agent_as("the boß", Some("orchestrator")).await);
    let worker = format!("Bearer {}", mesh.db.agent("worker").await);
    let boss = [("authorization", chief.as_str()), ("postbell-agent", "the%20bo%C3%9F"), JSON];
    let (status, told) = get(&mesh, "/api/me", &boss).await;
    assert_eq!((status, told), (200, json!({"may": "operate", "name": "the boß"})));
    assert_eq!(post(&mesh, "/api/dead/redrive", &boss, &json!({"inbox": "gone"})).await.1["count"], 1);
    for (agent, token) in
        [("worker", &worker), ("the%20bo%C3%9F", &worker), ("nobody", &chief), ("worker", &chief)]
    {
        let headers = [("authorization", token.as_str()), ("postbell-agent", agent)];
        assert_eq!(get(&mesh, "/api/mesh", &headers).await.0, 401, "{agent}");
    }
    // An orchestrator that loses the role loses this right with it.
    mesh.db.sql().await.batch_execute("update agent_registry set role = 'agent'").await.expect("demoted");
    assert_eq!(get(&mesh, "/api/mesh", &boss).await.0, 401);
}

#[tokio::test]
async fn dead_letters_are_read_redriven_and_purged_by_those_who_may() {
    let mesh = mesh("public").await;
    bury(&mesh, "worker", 5).await;
    let (_client, mut deliveries) = mesh.connect("worker", 5).await;
    let (_, page) = get(&mesh, "/api/dead?inbox=worker&limit=2", &[VIEWER]).await;
    let ids: Vec<i64> = page["letters"]
        .as_array()
        .expect("letters")
        .iter()
        .map(|l| l["delivery_id"].as_i64().expect("a number"))
        .collect();
    assert_eq!(
        (ids.len(), &page["more"], &page["letters"][0]["reason"]),
        (2, &json!(true), &json!("no such county"))
    );
    let (_, older) = get(&mesh, &format!("/api/dead?before={}", ids[1]), &[VIEWER]).await;
    assert_eq!((older["letters"].as_array().map(Vec::len), &older["more"]), (Some(3), &json!(false)));
    assert_eq!(
        get(&mesh, &format!("/api/dead/{}", ids[0]), &[VIEWER]).await.1[0]["payload"],
        json!({"secret": 5})
    );
    assert_eq!(get(&mesh, "/api/dead/999999", &[VIEWER]).await.0, 404);

    let one = json!({"ids": [ids[0]]});
    for (headers, status) in [
        (&[JSON][..], 401),
        (&[JSON, VIEWER], 403),
        (&[JSON, ("authorization", "Bearer wrong")], 401),
        (&[OPERATOR], 415),
        (&[OPERATOR, ("content-type", "text/plain")], 415),
    ] {
        for path in ["/api/dead/redrive", "/api/dead/purge"] {
            assert_eq!(post(&mesh, path, headers, &one).await.0, status, "{headers:?}");
        }
    }
    let operator = [JSON, OPERATOR];
    for wrong in [
        json!({}),
        json!({"ids": []}),
        json!({"ids": [1], "inbox": "worker"}),
        json!({"ids": "all"}),
        json!([]),
    ] {
        assert_eq!(post(&mesh, "/api/dead/purge", &operator, &wrong).await.0, 400, "{wrong}");
    }
    assert_eq!(get(&mesh, "/api/dead/purge", &operator).await.0, 405);
    let long = json!({"inbox": "x".repeat(40_000)});
    assert_eq!(post(&mesh, "/api/dead/purge", &operator, &long).await.0, 413);
    assert_eq!(dead(&mesh).await, 5, "nothing of this did anything");

    let (status, done) = post(&mesh, "/api/dead/redrive", &operator, &one).await;
    assert_eq!((status, done), (200, json!({"count": 1, "last": ids[0], "more": false})));
    let delivery = next(&mut deliveries).await;
    assert_eq!((delivery.payload(), delivery.attempt()), (r#"{"secret": 5}"#, 1));
    delivery.ack_confirmed().await.expect("acknowledged");
    assert_eq!(
        post(&mesh, "/api/dead/purge", &operator, &json!({"ids": [ids[1], 999_999]})).await.1["count"],
        1
    );
    assert_eq!(post(&mesh, "/api/dead/purge", &operator, &json!({"inbox": "worker"})).await.1["count"], 3);
    assert_eq!(dead(&mesh).await, 0);
}
