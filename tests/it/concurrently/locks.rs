//! The dry run says whom each step keeps out, by a list of locks that the server itself tells.

use std::collections::BTreeSet;

use postbell::store::Connection;
use postbell::store::migrate::{MIGRATIONS, StepLocks, TRIGGERS, migrate, plan, step_locks};

use super::mesh;
use crate::harness::{command, fresh, migrated, texts};
use crate::rehearsal::everything;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/locks.json");

const TABLES: &str = "
    select case when n.nspname = 'postbell' then 'postbell.' else '' end || c.relname
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind in ('r', 'p') and n.nspname in ('public', 'postbell')";

const LOCKED: &str = "
    select distinct case when l.mode = 'AccessExclusiveLock' then 'all ' else 'writers ' end
           || case when n.nspname = 'postbell' then 'postbell.' else '' end || c.relname
    from pg_locks l join pg_class c on c.oid = l.relation join pg_namespace n on n.oid = c.relnamespace
    where l.pid = pg_backend_pid() and c.relkind in ('r', 'p')
      and l.mode in ('AccessExclusiveLock', 'ExclusiveLock', 'ShareRowExclusiveLock', 'ShareLock')";

/// How often this session has read each table from end to end, with the tables' names.
const SCANS: &str = "
    select case when schemaname = 'postbell' then 'postbell.' else '' end || relname || ' ' || seq_scan
    from pg_stat_xact_all_tables where schemaname in ('public', 'postbell') and seq_scan > 0";

/// Applies one step in a transaction, and returns what the server tells of it.
async fn applied(client: &Connection, step: String, sql: &str) -> StepLocks {
    let there: BTreeSet<String> = texts(client, TABLES).await.into_iter().collect();
    client.batch("begin").await.expect("begins");
    let scans = texts(client, SCANS).await;
    client.batch(sql).await.unwrap_or_else(|e| panic!("{step}: {e}"));
    let mut told = texts(client, LOCKED).await;
    // The server adds these up over several transactions.
    let new = texts(client, SCANS).await.into_iter().filter(|scan| !scans.contains(scan));
    told.extend(new.filter_map(|scan| Some(format!("scan {}", scan.split_once(' ')?.0))));
    client.batch("commit").await.expect("commits");
    let of = |what: &str| -> BTreeSet<String> {
        let names = told.iter().filter_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
        names.filter(|name| there.contains(*name)).map(str::to_owned).collect()
    };
    let all = of("all");
    StepLocks { step, writers: &of("writers") - &all, readers_and_writers: all, scans: of("scan") }
}

/// The locks of each step on a mesh with rows: a migration after the steps before it, a trigger over an older one.
async fn found() -> Vec<StepLocks> {
    let client = Connection::open(&mesh().await.target()).await.expect("connects");
    client.batch(include_str!("../../../sql/queries/migrations_bootstrap.sql")).await.expect("bootstrap");
    let mut found = Vec::new();
    for migration in MIGRATIONS {
        let loose =
            if migration.concurrently { migration.statements() } else { migration.statements_beforehand() };
        for sql in loose {
            client.batch(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
        if !migration.concurrently {
            found.push(applied(&client, migration.label(), migration.sql).await);
        }
    }
    for trigger in TRIGGERS {
        client.batch(trigger.sql).await.expect(trigger.name);
        found.push(applied(&client, trigger.full_name(), trigger.sql).await);
    }
    found
}

#[tokio::test]
async fn locks_json_is_what_the_server_tells_of_each_step() {
    let found = found().await;
    if std::env::var_os("POSTBELL_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&found).expect("JSON") + "\n";
        std::fs::write(FILE, text).expect("sql/locks.json");
        return;
    }
    assert_eq!(step_locks(), found, "sql/locks.json differs: POSTBELL_BLESS=1 cargo test locks_json");
}

/// No migration reads a large table of the user's while it keeps somebody out, except for what it says.
#[tokio::test]
async fn no_migration_keeps_producers_out_while_it_reads_their_tables() {
    for locks in step_locks().iter().filter(|locks| !locks.step.starts_with("postbell_")) {
        let large = ["agent_messages", "agent_metrics", "agent_alerts"];
        let read = large.iter().find(|table| locks.scans.contains(**table));
        assert_eq!(read, None, "{} reads it in a transaction", locks.step);
    }
}

#[tokio::test]
async fn a_dry_run_says_whom_each_step_keeps_out_and_changes_nothing() {
    let db = mesh().await;
    let client = db.client().await;
    client.batch("analyze").await.expect("analyzed");
    let before = everything(&client).await;
    let said = command(&db, &["migrate", "--dry-run"]).await;
    assert_eq!(said.status, 0, "{}{}", said.stdout, said.stderr);
    assert_eq!(everything(&client).await, before, "{}", said.stdout);
    for part in [
        "would add columns to agent_messages: readers and writers of agent_messages are kept out for a moment",
        "would build agent_messages_dedupe on agent_messages concurrently: nobody is kept out; reads agent_messages twice (some \
         2,0",
        "would build agent_messages_expires on agent_messages concurrently: nobody is kept out",
        "would build agent_metrics_recorded_at on agent_metrics concurrently: nobody is kept out",
        "migration 0002_agent_tables: readers and writers of agent_messages and agent_registry are kept out for a scan of \
         agent_registry (some 5 rows)",
        "migration 0001_broker_tables: nobody is kept out",
        "installing the triggers: readers and writers of agent_alerts, agent_messages and agent_registry are kept out for a scan of \
         agent_messages (some 2,0",
    ] {
        assert!(said.stdout.contains(part), "{part} is not in {}", said.stdout);
    }
    let said = command(&db, &["migrate", "--dry-run", "--json"]).await.stdout;
    let said: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert!(said["builds"].as_array().is_some_and(|builds| builds.len() >= 3), "{said}");
    assert!(said["holds"].as_array().is_some_and(|holds| holds.len() > MIGRATIONS.len()), "{said}");
    assert_eq!(everything(&client).await, before);

    let planned = plan(&client).await.expect("planned");
    let done = migrate(&db.target()).await.expect("migrated");
    assert_eq!(done.builds, planned.builds);
}

/// A table that nobody has counted is told by its size, an empty one is read in a moment, and one that is yet to be made keeps
/// nobody waiting.
#[tokio::test]
async fn a_dry_run_knows_tables_without_statistics_and_without_rows() {
    let db = mesh().await;
    let said = command(&db, &["migrate", "--dry-run"]).await.stdout;
    assert!(said.contains(" kB, whose rows nobody has counted: `analyze`)"), "{said}");
    let said = command(&fresh().await, &["migrate", "--dry-run"]).await.stdout;
    assert!(!said.contains("are kept out") && !said.contains("would build"), "{said}");
    let db = migrated().await;
    db.client().await.batch("update postbell.triggers set sha256 = 'old'").await.expect("another version");
    let said = command(&db, &["migrate", "--dry-run"]).await.stdout;
    assert!(said.contains("agent_registry are kept out for a moment"), "{said}");
}
