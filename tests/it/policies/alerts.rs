//! Alerts, metrics and uptime through the API's roles.

use super::{DENIED, as_agent, claim, closed, none, one, try_as};

fn alert(agent: &str) -> String {
    format!(
        "insert into agent_alerts (agent_id, alert_type, severity, message) values ('{agent}', 't', 'high', 'of {agent}')"
    )
}

#[tokio::test]
async fn an_agent_raises_alerts_as_itself_and_ends_its_own_and_an_orchestrator_any() {
    let db = closed().await;
    assert_eq!(as_agent(&db, "a", &alert("a")).await, one());
    assert_eq!(as_agent(&db, "b", &alert("b")).await, one());
    let resolved = "insert into agent_alerts (agent_id, alert_type, severity, message, status) values ('a', 't', 'high', 'm', 'resolved')";
    for (agent, statement) in [("a", alert("b")), ("off", alert("off")), ("a", resolved.to_owned())] {
        assert_eq!(as_agent(&db, agent, &statement).await, DENIED, "{agent}: {statement}");
    }
    assert_eq!(try_as(&db, "authenticated", "", &alert("a")).await, DENIED);
    // The trigger sends in the name of the alert's agent, and of nobody else.
    let senders = "select string_agg(from_agent_id || ' ' || topic, ', ' order by 1) from agent_messages where topic is not null";
    assert_eq!(db.ask::<String>(senders).await, "a alerts.high, b alerts.high");
    let end = |whose: &str| {
        format!(
            "update agent_alerts set status = 'acknowledged', acknowledged_at = now() where agent_id = '{whose}'"
        )
    };
    assert_eq!(as_agent(&db, "a", &end("b")).await, none());
    assert_eq!(as_agent(&db, "a", &end("a")).await, one());
    assert_eq!(as_agent(&db, "boss", &end("b")).await, one());
    let read = "select message from agent_alerts order by 1";
    assert_eq!(as_agent(&db, "b", read).await, Ok(vec!["of a".to_owned(), "of b".to_owned()]));
    assert_eq!(try_as(&db, "authenticated", "", read).await, Ok(vec![]));
    assert_eq!(try_as(&db, "service_role", "", "delete from agent_alerts where agent_id = 'a'").await, one());
}

#[tokio::test]
async fn an_agent_writes_what_it_measures_itself_and_reads_all() {
    let db = closed().await;
    let record = |agent: &str| {
        format!(
            "insert into agent_metrics (agent_id, metric_type, metric_name, metric_value) values ('{agent}', 'gauge', 'n', 1)"
        )
    };
    assert_eq!(as_agent(&db, "a", &record("a")).await, one());
    assert_eq!(as_agent(&db, "a", &record("b")).await, DENIED);
    assert_eq!(as_agent(&db, "off", &record("off")).await, DENIED);
    let read = "select agent_id from agent_metrics";
    assert_eq!(as_agent(&db, "b", read).await, Ok(vec!["a".to_owned()]));
    assert_eq!(try_as(&db, "authenticated", "", read).await, Ok(vec![]));
    for statement in [read.to_owned(), record("a"), alert("a"), "select from agent_alerts".to_owned()] {
        assert_eq!(try_as(&db, "anon", &claim("a"), &statement).await, DENIED, "{statement}");
    }
}

/// The function runs with its owner's rights, so it must itself decide whom it shows what.
#[tokio::test]
async fn uptime_is_shown_to_whom_the_registry_is() {
    let db = closed().await;
    let uptime = "select agent_id from agent_uptime('1 hour')";
    let all = Ok(vec!["a".to_owned(), "b".to_owned(), "boss".to_owned()]);
    assert_eq!(as_agent(&db, "a", uptime).await, all);
    assert_eq!(try_as(&db, "service_role", "", uptime).await, all);
    let disabled = claim("off");
    for claims in ["", "{}", &disabled, r#"{"user_metadata":{"agent_id":"a"}}"#] {
        assert_eq!(try_as(&db, "authenticated", claims, uptime).await, Ok(vec![]), "{claims}");
    }
    assert_eq!(try_as(&db, "anon", &claim("a"), uptime).await, DENIED);
    // Somebody grants all functions again: the function still shows nothing.
    db.client().await.batch("grant execute on all functions in schema public to anon").await.expect("grants");
    assert_eq!(try_as(&db, "anon", &claim("a"), uptime).await, Ok(vec![]));
    // Before the policies are applied, only the owner may call it.
    let fresh = crate::harness::migrated().await;
    assert_eq!(try_as(&fresh, "authenticated", &claim("a"), uptime).await, DENIED);
}
