//! Every statement that runs often walks an index from a known place, whatever the tables held when it was planned:
//! the broker plans once, often on empty tables, and lives with it when there are millions.

use crate::harness::migrated;

macro_rules! statements {
    ($($name:literal: $parameters:literal),* $(,)?) => {
        [$(($name, $parameters, include_str!(concat!("../../sql/queries/", $name, ".sql")))),*]
    };
}

/// Names, numbers of parameters, texts.
const OFTEN: &[(&str, usize, &str)] = &statements![
    "tail": 4,
    "refill": 6,
    "settle_ack": 2,
    "settle_retry": 5,
    "settle_dead": 4,
    "settle_expired": 2,
    "mark_delivered": 1,
    "due_promote": 1,
    "reap_expired": 2,
    "reap_processed": 2,
    "reap_broadcasts": 1,
    "publish": 11,
    "publish_first": 2,
    "lease_acquire": 2,
    "lease_release": 2,
    "agent_authenticate": 1,
];

/// What an operator sees by `explain`: a scan of an index without a condition reads all of it.
fn faults(name: &str, plan: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for (i, line) in plan.iter().enumerate() {
        let conditioned = plan.get(i + 1).is_some_and(|next| next.contains("Index Cond"));
        let whole = line.contains("Index") && line.contains("Scan using") && !conditioned;
        if line.contains("Seq Scan") || line.contains("Bitmap") || whole {
            faults.push(format!("{name}: {}", line.trim()));
        }
    }
    faults
}

#[tokio::test]
async fn no_statement_that_runs_often_reads_a_table_or_an_index_whole() {
    let db = migrated().await;
    let some = "insert into agent_registry (agent_id, agent_name, agent_type, environment, status)
                  select 'a' || i, 'a', 'test', 'test', 'offline' from generate_series(1, 3) i;
                insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                  select 'a1', 'a' || 1 + i % 3, 'data', '{}' from generate_series(1, 300) i";
    let mut found = Vec::new();
    // As migrated, with rows, and emptied again: each leads the planner to other guesses.
    for state in ["", some, "delete from agent_messages"] {
        db.client().await.batch(state).await.expect("the rows");
        if !state.is_empty() {
            db.client().await.batch("vacuum analyze").await.expect("vacuum");
        }
        // With the settings of the broker's own connections.
        let broker = postbell::postgres::Connection::open(&db.target()).await.expect("connects");
        for (name, parameters, text) in OFTEN {
            let nulls = vec!["null"; *parameters].join(", ");
            broker.batch(&format!("prepare {name} as {text}")).await.expect(name);
            let explain: &'static str = format!("explain (costs off) execute {name}({nulls})").leak();
            let rows = broker.query(explain, &[]).await.expect(name);
            let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            found.extend(faults(name, &plan));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
