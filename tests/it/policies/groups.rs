//! An agent can write to a group's inbox neither by its name nor by the group's column.

use super::{DENIED, as_agent, closed, one, send, try_as};

#[tokio::test]
async fn an_agent_sends_by_sql_to_no_group() {
    let db = closed().await;
    // If an agent of such a name exists, the trigger takes the name for that agent's: only the policy is left.
    let adopted = "insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
                   values ('group:g', 'g', 'poller', 'pc', 'offline')";
    db.client().await.batch(adopted).await.expect("an agent with a group's name");
    for agent in ["a", "boss"] {
        let to_name = send(agent, "'group:g'", "", "");
        let to_group = send(agent, "null", ", to_group", ", 'g'");
        let both = send(agent, "'b'", ", to_group", ", 'g'");
        for statement in [to_name, to_group, both] {
            assert_eq!(as_agent(&db, agent, &statement).await, DENIED, "{agent}: {statement}");
        }
        for update in ["to_agent_id = 'group:g'", "to_group = 'g'"] {
            let statement = format!("update agent_messages set {update}");
            assert_eq!(as_agent(&db, agent, &statement).await, DENIED, "{agent}: {statement}");
        }
        // A name that only looks similar is a name.
        assert_eq!(as_agent(&db, agent, &send(agent, "'groups'", "", "")).await, one());
    }
    let in_groups = "select count(*) from postbell.deliveries where starts_with(inbox, 'group:')";
    assert_eq!(db.ask::<i64>(in_groups).await, 0);
    // The holder of the service's key sends for the mesh.
    assert_eq!(try_as(&db, "service_role", "", &send("a", "null", ", to_group", ", 'g'")).await, one());
    assert_eq!(db.ask::<i64>(in_groups).await, 1);
}
