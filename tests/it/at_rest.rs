//! A broker with an agent and without messages: how much it asks the database, and what it finds all the same.

mod counter;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::harness::{TestDb, migrated};
use crate::mesh::{Mesh, PATIENCE, next};
use counter::Counter;

const RENEWAL: &str = "Renews this broker's lease";
const SWEEP: &str = "Makes up for messages that were written while";
/// With a sweep every two seconds, so many renewals without one happen at rest alone.
const WITHOUT_SWEEPS: u64 = 6;
/// The broker would have come to rest long before.
const RENEWALS_MAX: u64 = 150;
/// As many renewals are counted: four times the presence of the agent, and once the look that stands for all sweeps.
const COUNTED: u64 = 40;

/// Waits for so many renewals from now on.
async fn renewals(counter: &Counter, n: u64) {
    let last = counter.of(RENEWAL) + n;
    let waiting = async {
        while counter.of(RENEWAL) < last {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(2 * PATIENCE, waiting).await.expect("the broker renews its lease");
}

/// Waits until the broker rests; if it never does, so many renewals are enough.
async fn rested(counter: &Counter) {
    let (mut swept, mut since) = (counter.of(SWEEP), counter.of(RENEWAL));
    while counter.of(RENEWAL) - since < WITHOUT_SWEEPS && counter.of(RENEWAL) < RENEWALS_MAX {
        renewals(counter, 1).await;
        if counter.of(SWEEP) > swept {
            (swept, since) = (counter.of(SWEEP), counter.of(RENEWAL));
        }
    }
}

async fn counted_mesh() -> (TestDb, Counter, Mesh) {
    let db = migrated().await;
    let (counter, through) = Counter::before(&db).await;
    (db, counter, Mesh::on(through, &[]).await)
}

#[tokio::test]
async fn a_broker_at_rest_makes_two_statements_a_renewal_at_most() {
    let (_, counter, mesh) = counted_mesh().await;
    let agent = mesh.connect("a", 5).await;
    let mut made = BTreeMap::new();
    // A machine that stands still for a second makes a renewal late, and then a safety round is one too many.
    for _ in 0..3 {
        rested(&counter).await;
        let before = counter.counts();
        renewals(&counter, COUNTED).await;
        made = counter.counts();
        made.iter_mut().for_each(|(name, n)| *n -= before.get(name).copied().unwrap_or_default());
        made.retain(|_, n| *n > 0);
        if made.values().sum::<u64>() <= 2 * COUNTED {
            drop(agent);
            mesh.stop().await;
            return;
        }
    }
    panic!("in {COUNTED} renewals: {made:#?}");
}

/// Nobody rings for it, no sequence moves, and no transaction of the tail's has it.
#[tokio::test]
async fn a_broker_at_rest_sweeps_what_left_no_sign() {
    let (db, counter, mesh) = counted_mesh().await;
    let (client, mut deliveries) = mesh.connect("a", 5).await;
    let sql = db.sql().await;
    let later = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, deliver_at)
                 values ('x', 'a', 'data', '1', now() + interval '1 day')";
    sql.batch_execute(later).await.expect("scheduled");
    rested(&counter).await;
    sql.batch_execute("update postbell.deliveries set due_at = now()").await.expect("due now");
    assert_eq!(next(&mut deliveries).await.payload(), "1");
    drop(client);
    mesh.stop().await;
}

/// The wait that the look finds, in milliseconds: absences become alerts after 15 s, and are escalated after 900 s.
async fn due(sql: &tokio_postgres::Client) -> Option<i64> {
    let look = include_str!("../../sql/queries/resting.sql");
    let row = sql.query_one(look, &[&5_000_i64, &15_000_i64, &900_000_i64, &300_i64, &30_i64]).await;
    row.expect("looks").get("due_ms")
}

#[tokio::test]
async fn the_look_at_rest_finds_all_that_time_brings_about() {
    let db = migrated().await;
    let sql = db.sql().await;
    assert_eq!(due(&sql).await, None);
    let message = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, deliver_at, expires_at, status)
                   select 'x', 'a', 'data', '1'";
    let agent = "set local postbell.broker = on;
                 insert into agent_registry (agent_id, agent_name, agent_type, environment, status, last_heartbeat)
                 values ('a', 'a', 'x', 'pc', 'online', now()";
    let left_behind =
        "update agent_registry set connected_to = array['00000000-0000-0000-0000-000000000001'::uuid]";
    let absent = "update agent_registry set status = 'offline', offline_reason = 'silent'";
    let alert = "insert into agent_alerts (agent_id, alert_type, severity, message, status) values ('a', 'x', 'high', 'm', 'active')";
    let aside = "insert into postbell.set_aside (message_id, inbox, kind, status, reason, next_try)
                 values (gen_random_uuid(), 'a', 'ack', 'processed', 'r', now() + interval '7 s')";
    // The rows that are written, and the seconds until something is due.
    let found = [
        (format!("set local session_replication_role = replica; {message}, null, null, 'pending'"), Some(0)),
        (format!("{message}, now() + interval '40 s', null, 'pending'"), Some(40)),
        (format!("{message}, null, now() - interval '6 s', 'pending'"), Some(0)),
        (format!("{message}, null, now() - interval '6 s', 'processed'"), None),
        (format!("{message}, null, now() + interval '40 s', 'pending'"), Some(45)),
        (
            format!("{message}, null, now() + n * interval '1 s', 'processed' from generate_series(1, 99) n"),
            None,
        ),
        // One that waits may be behind the hundred that are read.
        (
            format!(
                "{message}, null, now() + n * interval '1 s', 'processed' from generate_series(1, 100) n"
            ),
            Some(105),
        ),
        (format!("{agent} - interval '200 s')"), Some(100)),
        (format!("{agent} - interval '400 s')"), Some(0)),
        (format!("{agent} - interval '10 s'); {left_behind}"), Some(20)),
        (format!("{agent}); {absent}"), Some(15)),
        // Such an absence never becomes an alert.
        (format!("{agent}); {absent}, enabled = false"), None),
        (alert.to_owned(), Some(900)),
        (aside.to_owned(), Some(7)),
        (format!("{message}, now() + interval '1 year', null, 'pending'"), Some(3_600)),
    ];
    for (written, seconds) in found {
        // The clock of a transaction stands still.
        sql.batch_execute(&format!("begin; {written}")).await.expect("written");
        assert_eq!(due(&sql).await, seconds.map(|s| s * 1_000), "{written}");
        sql.batch_execute("rollback").await.expect("taken back");
    }
}
