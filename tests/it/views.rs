//! Views that an operator reads in psql.

use crate::harness::migrated;
use crate::mesh::insert;

#[tokio::test]
async fn the_views_answer_what_operators_ask() {
    let db = migrated().await;
    let sql = db.sql().await;
    let make = "
        insert into agent_registry (agent_id, agent_name, agent_type, environment, status, last_heartbeat) values
          ('a', 'a', 't', 'pc', 'online', now() - interval '1 minute'), ('b', 'b', 't', 'pc', 'offline', now()),
          ('c', 'c', 't', 'railway', 'busy', now());
        insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, priority, status, created_at,
                                    processed_at)
        values ('a', 'c', 'data', '1', 5, 'processed', now() - interval '10 s', now() - interval '8 s'),
               ('x', 'b', 'data', '2', 5, 'failed', now(), now())";
    sql.batch_execute(make).await.expect("a mesh");
    for priority in [1, 1, 7] {
        insert(&sql, "c", priority, "1").await;
    }
    let dead = "update postbell.deliveries set state = 'dead', dead_at = now(),
                  last_error = 'county ' || delivery_id || ' is locked' where priority = 1";
    sql.batch_execute(dead).await.expect("dead letters");
    let ask = async |query: &str| -> Vec<String> {
        let rows = sql
            .query(&format!("select row_to_json(answer)::text from ({query}) answer"), &[])
            .await
            .expect(query);
        rows.iter().map(|row| row.get(0)).collect()
    };
    let environments = "select environment, agents, alive, newest_heartbeat - oldest_heartbeat as apart
                        from postbell.environments order by 1";
    assert_eq!(
        ask(environments).await,
        [
            r#"{"environment":"pc","agents":2,"alive":1,"apart":"00:01:00"}"#,
            r#"{"environment":"railway","agents":1,"alive":1,"apart":"00:00:00"}"#
        ]
    );
    let waiting =
        "select inbox, priority, messages, oldest_age >= interval '0' as is_old from postbell.waiting";
    assert_eq!(ask(waiting).await, [r#"{"inbox":"c","priority":7,"messages":1,"is_old":true}"#]);
    let flow = "select from_environment as f, to_environment as t, messages, processed, failed, mean_time
                from postbell.flow order by 1, 2";
    assert_eq!(
        ask(flow).await,
        [
            r#"{"f":"(not registered)","t":"pc","messages":1,"processed":0,"failed":1,"mean_time":null}"#,
            r#"{"f":"(not registered)","t":"railway","messages":3,"processed":0,"failed":0,"mean_time":null}"#,
            r#"{"f":"pc","t":"railway","messages":1,"processed":1,"failed":0,"mean_time":"00:00:02"}"#
        ]
    );
    let dead = "select reason, letters, inboxes from postbell.dead_letters";
    assert_eq!(ask(dead).await, [r##"{"reason":"county # is locked","letters":2,"inboxes":1}"##]);
}
