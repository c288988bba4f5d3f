//! Every statement that runs often walks an index from a known place, whatever the tables held when it was planned:
//! the broker plans once, often on empty tables, and lives with it when there are millions.

use crate::harness::migrated;

macro_rules! statements {
    ($($name:literal: $parameters:literal, $index:literal;)*) => {
        &[$(($name, $parameters, $index, include_str!(concat!("../../sql/queries/", $name, ".sql")))),*]
    };
}

/// Names, numbers of parameters, the index that each must use, texts.
const OFTEN: &[(&str, usize, &str, &str)] = statements![
    "tail": 6, "deliveries_tail";
    "tail_restored": 0, "deliveries_tail";
    "refill": 11, "deliveries_lane";
    "refill_key": 8, "deliveries_key";
    "settle_relane": 4, "deliveries_pkey";
    "payload": 2, "agent_messages_pkey";
    "unreadable": 2, "agent_messages_pkey";
    "settle_ack": 2, "deliveries_pkey";
    "settle_retry": 6, "deliveries_pkey";
    "settle_dead": 4, "deliveries_pkey";
    "dead_page": 3, "deliveries_dead";
    "dead_redrive": 4, "deliveries_dead";
    "dead_purge": 4, "deliveries_dead";
    "dead_chosen": 4, "deliveries_dead";
    "dead_refused": 2, "deliveries_pkey";
    "dead_free": 4, "deliveries_dead";
    "dead_wait": 1, "agent_messages_pkey";
    "dead_ready": 1, "deliveries_pkey";
    "dead_drop": 1, "deliveries_pkey";
    "dead_failed": 2, "agent_messages_pkey";
    "settle_expired": 2, "deliveries_pkey";
    "settle_unmarked": 2, "agent_messages_pkey";
    "aside_next": 0, "set_aside_due";
    "mark_delivered": 1, "agent_messages_pkey";
    "due_promote": 2, "deliveries_due";
    "reap_expired": 2, "agent_messages_expires";
    "reap_processed": 2, "agent_messages_created_at";
    "reap_processed_part": 4, "agent_messages_created_at";
    "reap_broadcasts": 1, "agent_messages_created_at";
    "publish": 16, "";
    "publish_plain": 16, "";
    "publish_there": 1, "agent_messages_pkey";
    "lock_acquire": 6, "locks_pkey";
    "lock_release": 5, "locks_pkey";
    "reap_locks": 3, "locks_until";
    "subscribe": 3, "subscriptions";
    "unsubscribe": 2, "subscriptions";
    "publish_first": 2, "agent_messages_dedupe";
    "lease_acquire": 3, "brokers_pkey";
    "lease_want": 2, "leases_pkey";
    "lease_held": 1, "leases_broker";
    "broker_renew": 13, "brokers_pkey";
    "broker_authenticate": 1, "brokers_pkey";
    "lease_release": 3, "leases";
    "agent_authenticate": 1, "agent_registry_pkey";
    "access_lost": 5, "agent_registry_pkey";
    "presence_connected": 5, "agent_registry_pkey";
    "presence_disconnected": 3, "agent_registry_pkey";
    "presence_heartbeat": 2, "agent_registry_pkey";
    "presence_versions": 1, "agent_registry_pkey";
    "presence_silent_each": 4, "agent_registry_pkey";
    "broker_sweep_each": 3, "agent_registry_pkey";
    "presence_kept_out": 2, "pg_trigger_tgrelid_tgname_index";
    "reap_presence": 3, "presence_history_until";
    "alerts_offline": 3, "presence_history_untold";
    "agent_metrics_recent": 2, "agent_metrics_recorded_at";
    "status_flow": 2, "agent_messages_created_at";
];

/// Faults that an operator could see by `explain`: a scan of an index without a condition reads the whole index.
fn faults(name: &str, index: &str, plan: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for (i, line) in plan.iter().enumerate() {
        let conditioned = plan.get(i + 1).is_some_and(|next| next.contains("Index Cond"));
        let whole = line.contains("Index") && line.contains("Scan using") && !conditioned;
        if line.contains("Seq Scan") || line.contains("Bitmap") || whole {
            faults.push(format!("{name}: {}", line.trim()));
        }
    }
    if !plan.iter().any(|line| line.contains(index)) {
        faults.push(format!("{name} does not use {index}:\n{}", plan.join("\n")));
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
    let long = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                  select 'a1', 'a2', 'data', '{}' from generate_series(1, 20000) i";
    let mut found = Vec::new();
    // The tables as migrated, with a few rows, with a long inbox, and emptied again: each leads the planner to other
    // guesses.
    for state in ["", some, long, "delete from agent_messages"] {
        db.client().await.batch(state).await.expect("the rows");
        if !state.is_empty() {
            db.client().await.batch("vacuum analyze").await.expect("vacuum");
        }
        // A connection with the settings of the broker's own.
        let broker = postbell::store::Connection::open(&db.target()).await.expect("connects");
        for (name, parameters, index, text) in OFTEN {
            let nulls = match parameters {
                0 => String::new(),
                n => format!("({})", vec!["null"; *n].join(", ")),
            };
            broker.batch(&format!("prepare {name} as {text}")).await.expect(name);
            let explain: &'static str = format!("explain (costs off) execute {name}{nulls}").leak();
            let rows = broker.query(explain, &[]).await.expect(name);
            let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
            found.extend(faults(name, index, &plan));
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}
