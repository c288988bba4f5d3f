//! Rows of Postbell's own tables whose time is over: one that takes no delete is the only one that stays.

use std::time::Duration;

use postbell::store::forgetting::{Past, forget};

use crate::harness::{TRIGGER_FAULTS, migrated};

/// Fifty old rows of a table, and the condition by which the trigger finds the first and the thirtieth of them.
const TABLES: [(Past, &str, &str, &str); 3] = [
    (
        Past::Locks(Duration::from_secs(60)),
        "postbell.locks",
        "insert into postbell.locks (key, agent_id, until)
         select 'k' || n, 'a', now() - interval '1 hour' + n * interval '1 second' from generate_series(1, 50) n",
        "old.key in ('k1', 'k30')",
    ),
    (
        Past::Presence(Duration::from_secs(60)),
        "postbell.presence_history",
        "insert into postbell.presence_history (agent_id, status, until)
         select 'a' || n, 'online', now() - interval '1 hour' + n * interval '1 second' from generate_series(1, 50) n",
        "old.agent_id in ('a1', 'a30')",
    ),
    (
        Past::Asides,
        "postbell.set_aside",
        "insert into postbell.set_aside (inbox, kind, status, reason, next_try)
         select 'a' || n, 'presence', 'online', 'r', now() - interval '1 hour' from generate_series(1, 50) n",
        "old.inbox in ('a1', 'a30')",
    ),
];

#[tokio::test]
async fn a_row_that_takes_no_delete_is_the_only_one_that_stays() {
    let db = migrated().await;
    let (sql, pool) = (db.client().await, db.pool());
    for (past, table, rows, is_hurt) in TABLES {
        for body in TRIGGER_FAULTS {
            sql.batch(&format!("delete from {table}; {rows}")).await.expect(rows);
            let trigger = format!(
                "create or replace function hurts() returns trigger language plpgsql as
                 $$ begin if {is_hurt} then {body}; end if; return old; end $$;
                 create or replace trigger hurts before delete on {table} for each row execute function hurts()"
            );
            sql.batch(&trigger).await.expect(&trigger);
            forget(&pool, past).await.expect_err("tells of the refusal");
            assert_eq!(db.ask::<i64>(&format!("select count(*) from {table}")).await, 2, "{table}: {body}");
            sql.batch(&format!("drop trigger hurts on {table}")).await.expect("dropped");
            assert_eq!(forget(&pool, past).await.expect("deletes"), 2, "{table}");
        }
    }
}
