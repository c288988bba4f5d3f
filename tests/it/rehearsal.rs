//! What the tables of a mesh do to a broker's work is found before anything is changed, and named.

use std::time::{Duration, Instant};

use postbell::postgres::doctor::{Check, Level, examine};
use postbell::postgres::migrate::{Plan, Rehearsal, SchemaState, migrate, migrate_with, plan, schema_state};
use postbell::postgres::{Connection, DatabaseUrl, Target};

use crate::harness::{EXISTING_MESH, TestDb, command, fresh, migrated, number, roles, text, texts};

/// Whatever a migration or a rehearsal could leave behind: the catalogs, and every row.
const EVERYTHING: &str = "
    select string_agg(x, E'\\n' order by x collate \"C\") from (
      select 'schema ' || nspname from pg_namespace where nspname !~ '^pg_(toast_)?temp'
      union all
      select c.oid || ' ' || c.relname || ' ' || coalesce(a.attname, '') || ' ' || coalesce(format_type(a.atttypid, a.atttypmod), '')
             || coalesce(a.attnotnull::text, '') || coalesce(pg_get_expr(d.adbin, d.adrelid), '')
      from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
      left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
      where relnamespace in ('public'::regnamespace, coalesce(to_regnamespace('postbell'), 'public'::regnamespace))
      union all
      select 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) from pg_constraint
      where connamespace = 'public'::regnamespace
      union all
      select 'trigger ' || tgname || tgenabled::text from pg_trigger where not tgisinternal
      union all
      select 'function ' || oid::regprocedure from pg_proc where pronamespace = 'public'::regnamespace
      union all
      select query_to_xml('select * from ' || oid::regclass || ' t order by t::text', true, true, '')::text
      from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace
    ) t (x)";

pub(crate) async fn everything(client: &Connection) -> String {
    text(client, EVERYTHING).await
}

async fn mesh_with(change: &str) -> (TestDb, Connection) {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    client.batch(change).await.expect(change);
    (db, client)
}

/// A trigger on a table, with its function.
fn trigger(name: &str, when: &str, table: &str, body: &str) -> String {
    format!(
        "create function {name}_f() returns trigger language plpgsql as $f$ begin {body} end $f$;
         create trigger {name} {when} on {table} for each row execute function {name}_f();"
    )
}

/// The dry run and the migration refuse with the same sentence, and nothing is changed by either.
async fn refused(change: &str, parts: &[&str]) {
    let (db, client) = mesh_with(change).await;
    let before = everything(&client).await;
    let planned = plan(&client).await.expect_err(change).to_string();
    assert_eq!(everything(&client).await, before, "the dry run of {change}");
    let refused = migrate(&db.target()).await.expect_err(change).to_string();
    assert_eq!(everything(&client).await, before, "{change}");
    for part in parts.iter().chain(&["Nothing was changed"]) {
        assert!(planned.contains(part) && refused.contains(part), "{part} is not in {planned}\nor {refused}");
    }
}

/// The dry run and the migration warn with the same sentences; the migration is done.
async fn warned(change: &str, parts: &[&str]) {
    let (db, client) = mesh_with(change).await;
    let planned = plan(&client).await.expect(change).warnings.join("\n");
    assert_eq!(planned, migrate(&db.target()).await.expect(change).warnings.join("\n"));
    for part in parts {
        assert!(planned.contains(part), "{part} is not in {planned}");
    }
    assert_eq!(schema_state(&client).await.expect("state"), SchemaState::Current);
}

#[tokio::test]
async fn a_mesh_as_it_is_passes_without_a_word_and_nothing_remains_of_the_rehearsal() {
    let (_db, client) = mesh_with("").await;
    let before = everything(&client).await;
    let planned = plan(&client).await.expect("planned");
    assert_eq!((planned.warnings, planned.rehearsed_ms.is_some()), (Vec::new(), true));
    assert_eq!(everything(&client).await, before);
}

#[tokio::test]
async fn constraints_that_refuse_every_acknowledgement_or_agent_are_named() {
    let words = "alter table agent_messages drop constraint agent_messages_status_check,
                 add check (status in ('pending', 'delivered', 'completed', 'failed')) not valid";
    refused(
        words,
        &[
            "public.agent_messages: the constraint agent_messages_status_check",
            "acknowledgements cannot be written",
        ],
    )
    .await;
    let words = "alter table agent_registry drop constraint agent_registry_status_check,
                 add check (status in ('active', 'inactive')) not valid";
    refused(
        words,
        &["public.agent_registry: the constraint agent_registry_status_check", "no agent can be registered"],
    )
    .await;
    let disabled = "alter table agent_registry add enabled boolean default false";
    refused(disabled, &["public.agent_registry", "the default false of column enabled"]).await;
}

#[tokio::test]
async fn columns_that_the_table_computes_demands_or_fills_in_are_named() {
    for (change, part) in [
        (
            "drop column status cascade, add status text generated always as ('pending') stored",
            "status is generated",
        ),
        (
            "drop column priority cascade, add priority int generated always as (5) stored",
            "priority is generated",
        ),
        (
            "drop column priority cascade, add priority int generated always as identity",
            "priority is generated",
        ),
        ("add to_instance text default 'machine-1'", "to_instance has the default 'machine-1'::text"),
        ("add topic text not null default 'general'", "topic has the default 'general'::text"),
        ("add ordering_key bigint", "ordering_key is bigint, not text"),
        ("add to_group integer", "to_group is integer, not text"),
        ("add to_instance integer", "to_instance is integer, not text"),
        (
            "add tenant text not null default 'x', add check (tenant <> 'x') not valid",
            "constraint agent_messages_tenant_check",
        ),
        (
            "alter status set default 'queued', drop constraint agent_messages_status_check",
            "the default 'queued'::text of column status",
        ),
        ("add constraint kind check (payload ? 'kind') not valid", "the constraint kind refuses the row"),
    ] {
        refused(&format!("alter table agent_messages {change}"), &["public.agent_messages", part]).await;
    }
    refused(
        "alter table agent_registry drop updated_at, add updated_at timestamptz generated always as ('2026-01-01') stored",
        &["public.agent_registry cannot be adopted: updated_at is generated"],
    )
    .await;
    refused(
        "update agent_messages set processed_at = now(); alter table agent_messages alter processed_at set not null",
        &["public.agent_messages: column processed_at cannot be null"],
    )
    .await;
}

#[tokio::test]
async fn triggers_that_stop_a_message_are_named() {
    let audit =
        trigger("audit", "after update", "agent_messages", "perform missing(new.message_id); return null;");
    refused(&audit, &["The trigger audit of public.agent_messages fails", "function missing(uuid) does not exist"])
        .await;
    let swallow = trigger("swallow", "before insert", "agent_messages", "return null;");
    refused(
        &swallow,
        &["public.agent_messages", "not there afterwards", "the trigger swallow of public.agent_messages"],
    )
    .await;
    let readdress =
        trigger("readdress", "before insert", "agent_messages", "new.to_agent_id := 'desk'; return new;");
    refused(&readdress, &["public.agent_messages: something writes to_agent_id", "the trigger readdress"])
        .await;
    let topic = "alter table agent_messages add topic text;".to_owned()
        + &trigger("tag", "before insert", "agent_messages", "new.topic := 'all'; return new;");
    refused(&topic, &["public.agent_messages: something writes topic", "the trigger tag"]).await;
    let keep = trigger("keep", "before update", "agent_messages", "return null;");
    refused(&keep, &["status is not processed afterwards", "the trigger keep"]).await;
    let rule = "create rule quiet as on update to agent_messages do instead nothing";
    refused(rule, &["public.agent_messages", "the rule quiet"]).await;
}

#[tokio::test]
async fn what_fails_by_itself_is_a_warning() {
    warned(
        "alter table agent_messages alter error_message type varchar(255)",
        &[
            "public.agent_messages: column error_message character varying(255) is too short",
            "dead letters with a long reason",
        ],
    )
    .await;
    let guard = trigger(
        "guard",
        "before update",
        "agent_messages",
        "if new.status = 'failed' then raise exception 'no: %', new; end if; return new;",
    );
    warned(&guard, &["The trigger guard of public.agent_messages raises an exception, so dead letters"]).await;
    warned(
        "alter table agent_alerts drop constraint agent_alerts_severity_check,
           add check (severity in ('info', 'error')) not valid",
        &[
            "public.agent_alerts: the constraint agent_alerts_severity_check",
            "alerts of agents that are away",
        ],
    )
    .await;
    warned(
        "update agent_messages set to_agent_id = 'x' where to_agent_id is null;
         alter table agent_messages alter to_agent_id set not null",
        &["public.agent_messages: column to_agent_id cannot be null, so messages to all cannot be inserted"],
    )
    .await;
    warned(
        "alter table agent_messages add constraint sized check (priority < 9) not valid, alter message_type type varchar(8)",
        &["the constraint sized refuses the row, so agents cannot send with priority 10", "of type heartbeat"],
    )
    .await;
    let presence = trigger(
        "present",
        "before update",
        "agent_registry",
        "if new.status = 'online' then raise exception 'no'; end if; return new;",
    );
    warned(&presence, &["The trigger present of public.agent_registry raises an exception, so agents that connect"])
        .await;
    // Only at the commit, where nothing else would tell.
    warned(
        "create function late_f() returns trigger language plpgsql as $$ begin
           if new.status = 'failed' then raise exception 'no'; end if; return null; end $$;
         create constraint trigger late after update on agent_messages deferrable initially deferred
           for each row execute function late_f()",
        &["The trigger late of public.agent_messages raises an exception, so dead letters"],
    )
    .await;
}

/// A migration that would fail is found before the first one has happened.
#[tokio::test]
async fn what_makes_a_later_migration_fail_is_found_before_the_first() {
    let twice =
        "alter table agent_messages add dedupe_key text; update agent_messages set dedupe_key = 'secret'";
    refused(twice, &["migration 0002_agent_tables", "public.agent_messages", "(from_agent_id, dedupe_key)"])
        .await;
    let function = "create function agent_uptime(interval) returns int language sql as 'select 1'";
    refused(function, &["migration 0012_presence was not applied", "agent_uptime"]).await;
    let index = "create index agent_messages_dedupe on agent_messages (from_agent_id)";
    refused(index, &["public.agent_messages: no unique index agent_messages_dedupe"]).await;
    let long = "drop index agent_messages_to_agent_id_status_idx;
                update agent_messages set to_agent_id = (select string_agg(md5(i::text), '') from generate_series(1, 500) i)
                where status = 'pending'";
    refused(long, &["public.agent_messages", "what waits cannot be given its deliveries"]).await;
    let (_db, client) = mesh_with(twice).await;
    let said = plan(&client).await.expect_err("refused").to_string();
    assert!(!said.contains("secret"), "{said}");
}

/// Several faults, all in one answer.
#[tokio::test]
async fn every_fault_is_listed() {
    let change = "alter table agent_messages alter error_message type varchar(50),
                    add constraint done check (status <> 'processed') not valid;"
        .to_owned()
        + &trigger("present", "before update", "agent_registry", "raise exception 'no';");
    refused(&change, &["the constraint done", "error_message character varying(50)", "The trigger present"])
        .await;
}

/// As a role that owns the tables and no more, which row level security binds where it is forced.
#[tokio::test]
async fn row_level_security_that_binds_the_owner_is_named() {
    let (db, client) = mesh_with("").await;
    let owner = owned(&db, &client).await;
    let passes = plan(&Connection::open(&owner).await.expect("opens")).await.expect("an owner sees all");
    assert_eq!(passes.warnings, Vec::<String>::new());
    client
        .batch(
            "drop policy \"service role\" on agent_messages;
             create policy mine on agent_messages using (from_agent_id = 'x') with check (true);
             alter table agent_messages force row level security",
        )
        .await
        .expect("policy");
    let refused = migrate(&owner).await.expect_err("refused").to_string();
    assert!(refused.contains("row level security") && refused.contains("public.agent_messages"), "{refused}");
    assert!(refused.contains("no force row level security"), "{refused}");
}

/// Gives the tables to a role that is no superuser.
pub(crate) async fn owned(db: &TestDb, client: &Connection) -> Target {
    roles(
        client,
        "do $$ begin
           if to_regrole('mesh_owner') is null then create role mesh_owner login password 'secret'; end if;
         end $$;
         do $$ declare t text; begin
           execute format('grant create on database %I to mesh_owner', current_database());
           execute 'alter schema public owner to mesh_owner';
           foreach t in array array['agent_messages', 'agent_registry', 'agent_alerts', 'agent_metrics', 'agent_tasks'] loop
             if to_regclass(t) is not null then execute format('alter table %I owner to mesh_owner', t); end if;
           end loop;
         end $$",
    )
    .await;
    Target::new(DatabaseUrl::parse(&owner_url(db)).expect("url"), "public")
}

/// The same database by that role.
pub(crate) fn owner_url(db: &TestDb) -> String {
    let url = db.url();
    let (_, rest) = url.split_once('@').expect("url with a password");
    format!("postgres://mesh_owner:secret@{rest}")
}

/// One function counts for both, also what waits for all, for topics, environments and groups, and what has expired.
#[tokio::test]
async fn the_dry_run_counts_what_the_migration_makes() {
    let change = "alter table agent_messages add topic text, add to_environment text, add to_group text,
                    add expires_at timestamptz, add deliver_at timestamptz;
                  update agent_messages set topic = 'general' where to_agent_id is null and priority = 1;
                  update agent_messages set to_environment = 'pc' where to_agent_id is null;
                  update agent_messages set to_group = 'g', to_agent_id = null where priority = 3;
                  update agent_messages set expires_at = now() - interval '1 hour' where priority = 4;
                  update agent_messages set deliver_at = now() + interval '1 hour' where priority = 5;";
    for change in [
        "",
        change,
        "delete from agent_registry",
        "update agent_messages set status = 'pending', to_agent_id = null",
    ] {
        let (db, client) = mesh_with(change).await;
        let planned = plan(&client).await.expect("planned").deliveries.expect("counted");
        let done: Plan = migrate(&db.target()).await.expect("migrated");
        assert_eq!(done.deliveries, Some(planned), "{change}");
        let there = number(&client, "select count(*) from postbell.deliveries").await;
        assert_eq!(u64::try_from(there).ok(), Some(planned), "{change}");
    }
    // So many that they are only counted.
    let many = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
                select 'x', case when i % 100 > 0 then 'validation-agent' end, 'data', '{}' from generate_series(1, 12000) i";
    let (db, client) = mesh_with(many).await;
    let planned = plan(&client).await.expect("planned").deliveries;
    assert_eq!(migrate(&db.target()).await.expect("migrated").deliveries, planned);
    let said = command(&mesh_with("").await.0, &["migrate", "--dry-run"]).await;
    assert!(said.stdout.contains("would make ") && said.stdout.contains("rolled back"), "{}", said.stdout);
}

#[tokio::test]
async fn a_column_of_a_later_migration_is_asked_for_in_tables_that_were_adopted_long_ago() {
    let db = fresh().await;
    roles(&db.client().await, EXISTING_MESH).await;
    let before = columns(&db).await;
    migrate(&db.target()).await.expect("migrate");
    let added: Vec<String> =
        columns(&db).await.into_iter().filter(|column| !before.contains(column)).collect();
    assert!(added.len() >= 20, "{added:?}");
    // Every column that a migration adds is listed in adoption_faults.sql: with a type of nobody's it is refused.
    for column in added {
        let (table, name) = column.split_once('.').expect("a table");
        let (_db, client) = mesh_with(&format!("alter table {table} add {name} point")).await;
        let said = plan(&client).await.expect_err(&column).to_string();
        assert!(said.contains(&format!("{name} is point, not ")), "{column} is not listed: {said}");
    }
}

async fn columns(db: &TestDb) -> Vec<String> {
    texts(
        &db.client().await,
        "select table_name || '.' || column_name from information_schema.columns where table_schema = 'public'",
    )
    .await
}

#[tokio::test]
async fn a_failure_in_the_middle_says_where_it_stands_and_migrate_goes_on() {
    let (db, client) = mesh_with("").await;
    client.batch("begin; lock table agent_alerts in share mode").await.expect("lock");
    let failed = migrate_with(&db.target(), Rehearsal::Without).await.expect_err("locked");
    let said = failed.to_string();
    for part in [
        "migration 0013_alerts was not applied, and nothing of it remains",
        "Migrations 0001_broker_tables to 0012_presence were applied before it and stay",
        "it goes on with 0013_alerts",
    ] {
        assert!(said.contains(part), "{said}");
    }
    assert!(failed.is_retryable());
    client.batch("commit").await.expect("commit");
    let done = migrate(&db.target()).await.expect("goes on");
    assert_eq!(done.migrations.first().map(String::as_str), Some("0013_alerts"));
    // Of the very first one not even the schema stays.
    let (db, client) = mesh_with(
        "create type public.delivery_state as enum ('x'); create schema postbell;
                                  create table postbell.deliveries (x int)",
    )
    .await;
    let failed =
        migrate_with(&db.target(), Rehearsal::Without).await.expect_err("a table is there").to_string();
    assert!(failed.contains("0001_broker_tables") && failed.contains("Nothing was changed"), "{failed}");
    assert_eq!(number(&client, "select count(*) from pg_class where relname = 'migrations'").await, 0);
}

#[tokio::test]
async fn the_rehearsal_waits_for_a_table_in_use_for_a_moment_only() {
    let (db, client) = mesh_with("").await;
    client.batch("begin; lock table agent_registry in share mode").await.expect("lock");
    let began = Instant::now();
    let said = plan(&db.client().await).await.expect_err("locked");
    assert!(
        said.is_retryable() && said.to_string().contains("another transaction holds the table"),
        "{said}"
    );
    assert!(began.elapsed() < Duration::from_secs(30), "as long as anybody would wait behind it");
    client.batch("commit").await.expect("commit");
}

fn of<'a>(checks: &'a [Check], name: &str) -> Vec<&'a Check> {
    checks.iter().filter(|c| c.check == name).collect()
}

#[tokio::test]
async fn doctor_tries_what_was_added_later_and_leaves_no_trace() {
    let db = migrated().await;
    let client = db.client().await;
    let deliveries = "select count(*) from postbell.deliveries";
    let checks = examine(&db.target()).await;
    assert_eq!(
        of(&checks, "rehearsal").iter().map(|c| c.level).collect::<Vec<_>>(),
        [Level::Ok],
        "{checks:?}"
    );
    let change = "alter table agent_messages alter error_message type varchar(100),
                    add constraint done check (status <> 'processed')";
    client.batch(change).await.expect("change");
    let before = everything(&client).await;
    let checks = examine(&db.target()).await;
    let found = of(&checks, "rehearsal");
    assert_eq!(found.iter().map(|c| c.level).collect::<Vec<_>>(), [Level::Fail, Level::Warn], "{checks:?}");
    assert!(found[0].sentence.contains("public.agent_messages: the constraint done"), "{checks:?}");
    assert!(found[1].sentence.contains("error_message character varying(100)"), "{checks:?}");
    assert_eq!(everything(&client).await, before);
    assert_eq!(number(&client, deliveries).await, 0);
    // The dry run says so too, though there is nothing to migrate.
    let said = plan(&client).await.expect_err("refused").to_string();
    assert!(said.contains("the constraint done"), "{said}");
}

/// What a trigger notifies is rolled back with the rehearsal, and so is what the broker's own triggers ring.
#[tokio::test]
async fn nobody_hears_a_rehearsal() {
    let db = migrated().await;
    let client = db.client().await;
    let loud = trigger(
        "loud",
        "after insert or update",
        "agent_messages",
        "perform pg_notify('loud', 'x'); return null;",
    );
    client.batch(&loud).await.expect("trigger");
    client
        .batch("select setval('postbell.bell', (extract(epoch from now()) + 600)::bigint)")
        .await
        .expect("asleep");
    let (heard, mut hears) = tokio::sync::mpsc::unbounded_channel();
    let listening = Connection::open_listening(&db.target(), move |n| {
        let _ = heard.send(n.channel().to_owned());
    })
    .await
    .expect("listens");
    listening.batch("listen loud; listen postbell; listen postbell_access").await.expect("listen");
    plan(&client).await.expect("tried");
    assert_eq!(of(&examine(&db.target()).await, "rehearsal")[0].level, Level::Ok);
    // Notifications keep the order of commits: this one comes after whatever was rung before it.
    client.batch("notify loud").await.expect("notify");
    assert_eq!(hears.recv().await.as_deref(), Some("loud"));
    assert!(hears.try_recv().is_err());
}
