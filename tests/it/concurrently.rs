//! An index on a table of the user's is built while its producers write, and whatever ends a build in the middle, the next
//! `postbell migrate` ends well.

mod building;
mod interrupted;
mod kind;
mod locks;
mod names;
mod partitioned;

use postbell::store::Connection;
use postbell::store::migrate::{Plan, migrate};
use tokio::task::JoinHandle;

use crate::harness::{EXISTING_MESH, TestDb, fresh, roles, text};
use crate::mesh::insert;

const MEASURED: &str = "insert into agent_metrics (agent_id, metric_type, metric_name, metric_value)
                        select 'x', 't', 'n', n from generate_series(1, 100) n";

/// The mesh that lives in people's databases today, with messages and measurements.
async fn mesh() -> TestDb {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    client.batch(MEASURED).await.expect("measurements");
    db
}

fn migrating(db: &TestDb) -> JoinHandle<Plan> {
    let target = db.target();
    tokio::spawn(async move { migrate(&target).await.expect("migrated") })
}

/// A session that may leave a transaction open for any time.
async fn patient(db: &TestDb) -> Connection {
    let client = db.client().await;
    client.batch("set idle_in_transaction_session_timeout = 0").await.expect("set");
    client
}

/// A transaction that has read something and stays open, as a report or a back-up does.
async fn reading(db: &TestDb) -> Connection {
    let client = patient(db).await;
    client
        .batch("begin isolation level repeatable read; select 1 from pg_class limit 1")
        .await
        .expect("reads");
    client
}

/// Waits until an index is being built and has got this far.
async fn until_building(db: &TestDb, table: &str, phase: &str) {
    db.until(&format!(
        "select exists (select from pg_stat_progress_create_index
                        where datname = current_database() and relid = '{table}'::regclass and phase = '{phase}')"
    ))
    .await;
}

/// The definitions of the indexes of these names, and whether each is valid.
const INDEXES: &str = "
    select string_agg(c.relname || ' ' || i.indisvalid, ', ' order by c.relname)
    from pg_index i join pg_class c on c.oid = i.indexrelid
    where c.relname in ('agent_messages_dedupe', 'agent_messages_expires', 'agent_metrics_recorded_at')";

const ALL_VALID: &str =
    "agent_messages_dedupe true, agent_messages_expires true, agent_metrics_recorded_at true";

async fn indexes(db: &TestDb) -> String {
    text(&db.client().await, INDEXES).await
}

/// A producer's INSERT is committed now.
async fn a_producer_writes(db: &TestDb, payload: &str) {
    insert(&db.sql().await, "validation-agent", 5, payload).await;
}
