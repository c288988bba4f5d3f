//! Changes that people make to their tables: each is one or more statements, with random words.

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

const MESSAGES: &str = "agent_messages";
const TABLES: [&str; 4] = [MESSAGES, "agent_registry", "agent_alerts", "agent_metrics"];

/// One to three changes.
pub(super) fn some(random: &mut StdRng) -> Vec<String> {
    let makers = [
        length,
        check,
        not_null,
        later_column,
        generated,
        default,
        trigger,
        rule,
        policy,
        duplicates,
        foreign,
        unique,
        shape,
    ];
    (0..random.random_range(1..=3)).map(|n| makers.choose(random).expect("some")(random, n)).collect()
}

fn pick<'a>(random: &mut StdRng, from: &[&'a str]) -> &'a str {
    from.choose(random).expect("not empty")
}

/// A column of text of one of the tables.
fn text_column(random: &mut StdRng) -> (&'static str, &'static str) {
    let table = pick(random, &TABLES);
    let columns: &[&str] = match table {
        MESSAGES => &["from_agent_id", "to_agent_id", "message_type", "status", "error_message"],
        "agent_registry" => &["agent_id", "agent_name", "agent_type", "environment", "status"],
        "agent_alerts" => &["agent_id", "alert_type", "severity", "message", "status", "resolved_by"],
        _ => &["agent_id", "metric_name"],
    };
    (table, pick(random, columns))
}

fn length(random: &mut StdRng, _: usize) -> String {
    let (table, column) = text_column(random);
    let n = [3, 8, 9, 20, 50, 255].choose(random).expect("some");
    format!("alter table {table} alter {column} type varchar({n})")
}

fn check(random: &mut StdRng, n: usize) -> String {
    let (table, rule) = [
        (MESSAGES, "status in ('pending', 'delivered', 'completed', 'failed')"),
        (MESSAGES, "status in ('pending', 'processed')"),
        (MESSAGES, "status <> 'failed' or error_message is not null"),
        (MESSAGES, "priority between 1 and 5"),
        (MESSAGES, "message_type in ('command', 'query')"),
        (MESSAGES, "message_type in ('task', 'result')"),
        (MESSAGES, "payload ? 'n'"),
        (MESSAGES, "payload ? 'kind'"),
        (MESSAGES, "length(error_message) < 100"),
        (MESSAGES, "from_agent_id <> to_agent_id"),
        (MESSAGES, "to_agent_id is not null"),
        (MESSAGES, "processed_at >= created_at"),
        (MESSAGES, "(status = 'delivered') = (delivered_at is not null and processed_at is null)"),
        ("agent_registry", "status in ('active', 'inactive')"),
        ("agent_registry", "status <> 'offline'"),
        ("agent_registry", "environment in ('railway', 'github')"),
        ("agent_registry", "agent_type in ('orchestrator', 'monitoring', 'processing')"),
        ("agent_registry", "agent_id ~ '^[a-z-]+$'"),
        ("agent_registry", "last_heartbeat is null or status <> 'offline'"),
        ("agent_alerts", "severity in ('info', 'warning')"),
        ("agent_alerts", "alert_type in ('mine')"),
        ("agent_alerts", "status <> 'resolved'"),
        ("agent_metrics", "metric_value > 0"),
    ]
    .choose(random)
    .expect("some");
    let replaced = match (rule.contains("status"), rule.contains("message_type")) {
        (true, _) => format!("alter table {table} drop constraint if exists {table}_status_check;"),
        (_, true) => format!("alter table {table} drop constraint if exists {table}_message_type_check;"),
        _ => String::new(),
    };
    format!("{replaced} alter table {table} add constraint rule_{n} check ({rule}) not valid")
}

fn not_null(random: &mut StdRng, _: usize) -> String {
    let (table, column, filled) = [
        (MESSAGES, "to_agent_id", "'x'"),
        (MESSAGES, "delivered_at", "now()"),
        (MESSAGES, "processed_at", "now()"),
        (MESSAGES, "error_message", "''"),
        (MESSAGES, "priority", "5"),
        (MESSAGES, "status", "'pending'"),
        (MESSAGES, "created_at", "now()"),
        ("agent_registry", "last_heartbeat", "now()"),
        ("agent_registry", "updated_at", "now()"),
        ("agent_registry", "endpoint_url", "''"),
        ("agent_registry", "capabilities", "'{}'"),
        ("agent_alerts", "details", "'{}'"),
        ("agent_alerts", "resolved_at", "now()"),
        ("agent_alerts", "resolved_by", "''"),
    ]
    .choose(random)
    .expect("some");
    let default = match random.random_bool(0.5) {
        true => format!(", alter {column} set default {filled}"),
        false => String::new(),
    };
    format!(
        "update {table} set {column} = {filled} where {column} is null;
         alter table {table} alter {column} set not null{default}"
    )
}

/// A column that a migration will want, as somebody may have it already.
fn later_column(random: &mut StdRng, _: usize) -> String {
    let (table, columns): (_, &[&str]) = [
        (
            MESSAGES,
            &[
                "correlation_id",
                "dedupe_key",
                "deliver_at",
                "expires_at",
                "headers",
                "topic",
                "to_environment",
                "to_group",
                "to_instance",
                "ordering_key",
            ][..],
        ),
        (
            "agent_registry",
            &["role", "enabled", "token_hash", "agent_version", "connected_to", "offline_reason"][..],
        ),
        ("agent_alerts", &["escalated_at"][..]),
    ]
    .choose(random)
    .copied()
    .expect("some");
    let column = pick(random, columns);
    let definition = pick(
        random,
        &[
            "text",
            "varchar(20)",
            "integer",
            "bigint",
            "uuid",
            "jsonb",
            "timestamptz",
            "boolean",
            "text default 'x'",
            "text not null default 'general'",
            "text generated always as ('x') stored",
            "timestamptz default now()",
            "timestamptz not null default now()",
            "boolean default false",
            "bytea",
            "uuid[]",
        ],
    );
    format!("alter table {table} add {column} {definition}")
}

fn generated(random: &mut StdRng, _: usize) -> String {
    let (table, column, definition) = [
        (MESSAGES, "status", "text generated always as ('pending') stored"),
        (MESSAGES, "priority", "integer generated always as (5) stored"),
        (MESSAGES, "priority", "integer generated by default as identity"),
        (MESSAGES, "error_message", "text generated always as ('none') stored"),
        ("agent_registry", "updated_at", "timestamptz generated always as ('2026-01-01') stored"),
        ("agent_registry", "status", "text generated always as ('online') stored"),
        ("agent_alerts", "status", "text generated always as ('active') stored"),
        ("agent_metrics", "metric_value", "numeric generated always as (1) stored"),
    ]
    .choose(random)
    .expect("some");
    format!("alter table {table} drop column {column} cascade, add {column} {definition}")
}

fn default(random: &mut StdRng, _: usize) -> String {
    let change = pick(
        random,
        &[
            "agent_messages alter status set default 'queued', drop constraint agent_messages_status_check",
            "agent_messages alter status drop default",
            "agent_messages alter priority set default 99, drop constraint agent_messages_priority_check",
            "agent_messages alter priority drop default",
            "agent_messages alter to_agent_id set default 'desk'",
            "agent_messages alter created_at drop default",
            "agent_messages alter message_id drop default",
            "agent_registry alter capabilities drop default",
            "agent_alerts alter alert_id drop default",
        ],
    );
    format!("alter table {change}")
}

fn trigger(random: &mut StdRng, n: usize) -> String {
    let (table, when, body) = [
        (MESSAGES, "before insert", "return null;"),
        (MESSAGES, "before insert", "new.status := 'delivered'; return new;"),
        (MESSAGES, "before insert", "new.to_agent_id := 'desk'; return new;"),
        (MESSAGES, "before insert", "new.priority := 5; return new;"),
        (MESSAGES, "after insert", "perform missing(new.message_id); return null;"),
        (MESSAGES, "before update", "return null;"),
        (MESSAGES, "before update", "if new.status = 'failed' then raise exception 'no'; end if; return new;"),
        (MESSAGES, "before update", "if new.status = 'processed' then raise exception 'no'; end if; return new;"),
        (MESSAGES, "before update", "if old.status = 'delivered' and new.status = 'pending' then return old; end if; return new;"),
        (MESSAGES, "after update", "insert into agent_tasks (agent_id, task_type, task_name) values ('a', 'audit', 'x'); return null;"),
        (MESSAGES, "before delete", "raise exception 'history';"),
        (MESSAGES, "before delete", "return null;"),
        ("agent_registry", "before insert", "raise exception 'ask me first';"),
        ("agent_registry", "before update", "return null;"),
        ("agent_registry", "before update", "if new.status = 'offline' then raise exception 'no'; end if; return new;"),
        ("agent_registry", "before update", "new.updated_at := now(); return new;"),
        ("agent_alerts", "before insert", "raise exception 'quiet';"),
        ("agent_alerts", "before insert", "return null;"),
        ("agent_alerts", "after update", "perform missing(1); return null;"),
    ]
    .choose(random)
    .expect("some");
    format!(
        "create function trigger_{n}_f() returns trigger language plpgsql as $f$ begin {body} end $f$;
         create trigger trigger_{n} {when} on {table} for each row execute function trigger_{n}_f()"
    )
}

fn rule(random: &mut StdRng, n: usize) -> String {
    let (table, event) = [
        (MESSAGES, "insert"),
        (MESSAGES, "update"),
        (MESSAGES, "delete"),
        ("agent_registry", "update"),
        ("agent_alerts", "insert"),
    ]
    .choose(random)
    .expect("some");
    format!("create rule rule_{n} as on {event} to {table} do instead nothing")
}

/// The broker is no superuser here, and owns the tables.
fn policy(random: &mut StdRng, n: usize) -> String {
    let table = pick(random, &TABLES);
    let policy = pick(
        random,
        &["using (false)", "using (true) with check (false)", "using (true)", "for select using (true)"],
    );
    let forced = pick(random, &["force", "no force"]);
    format!(
        "drop policy if exists \"service role\" on {table}; create policy policy_{n} on {table} {policy};
         alter table {table} enable row level security, {forced} row level security"
    )
}

fn duplicates(random: &mut StdRng, _: usize) -> String {
    pick(
        random,
        &[
            "alter table agent_messages add dedupe_key text; update agent_messages set dedupe_key = 'x' where priority = 1",
            "alter table agent_messages add dedupe_key text; update agent_messages set dedupe_key = message_id::text",
            "create index agent_messages_dedupe on agent_messages (from_agent_id)",
            "alter table agent_messages add expires_at timestamptz;
             create index agent_messages_expires on agent_messages (expires_at) where expires_at is not null",
            "alter table agent_messages drop constraint agent_messages_pkey",
            "alter table agent_messages drop constraint agent_messages_pkey, add unique (message_id) deferrable",
            "alter table agent_registry drop constraint agent_registry_pkey",
        ],
    )
    .to_owned()
}

fn foreign(random: &mut StdRng, n: usize) -> String {
    let column = pick(random, &["to_agent_id", "from_agent_id"]);
    let when = pick(random, &["", "deferrable initially deferred"]);
    format!(
        "alter table agent_messages add constraint known_{n} foreign key ({column}) references agent_registry (agent_id)
         on delete cascade {when} not valid"
    )
}

fn unique(random: &mut StdRng, n: usize) -> String {
    let on = pick(
        random,
        &[
            "agent_messages (message_id, status)",
            "agent_messages (from_agent_id, to_agent_id) where status = 'pending' and created_at > '2100-01-01'",
            "agent_messages (to_agent_id) where created_at > date '2026-01-01' and message_type = 'data' and status = 'pending'",
            "agent_registry (agent_name)",
            "agent_alerts (agent_id) where status = 'active'",
        ],
    );
    format!("create unique index only_{n} on {on}")
}

fn shape(random: &mut StdRng, _: usize) -> String {
    pick(
        random,
        &[
            "create table old_messages () inherits (agent_messages)",
            "drop table agent_metrics; create table agent_metrics (agent_id text, metric_name text, metric_value numeric,
               recorded_at timestamptz) partition by range (recorded_at)",
            "alter table agent_messages rename to held; create table agent_messages (like held including all)
               partition by hash (message_id)",
            "alter table agent_alerts set unlogged",
            "alter table agent_messages replica identity full",
            "alter table agent_messages rename column error_message to error",
            "drop table agent_alerts",
            "alter table agent_messages alter payload type json",
        ],
    )
    .to_owned()
}
