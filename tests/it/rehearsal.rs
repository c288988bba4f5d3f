//! Tables that would stop a broker's work are found before anything is changed, and the cause is named.

mod migrating;
mod refused;

use postbell::store::doctor::{Check, Level, examine};
use postbell::store::migrate::{SchemaState, migrate, plan, schema_state};
use postbell::store::{Connection, DatabaseUrl, Target};

use crate::harness::{EXISTING_MESH, TestDb, fresh, migrated, number, roles, text};

/// Everything that a migration or a rehearsal could leave behind: the catalogs, and every row.
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
    warned(&guard, &["The trigger guard of public.agent_messages raises an exception, so dead letters"])
        .await;
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
    warned(
        &presence,
        &["The trigger present of public.agent_registry raises an exception, so agents that connect"],
    )
    .await;
    warned(
        "create table audit (message_id uuid);
         create rule audited as on insert to agent_messages do also insert into audit values (new.message_id)",
        &[
            "The rule audited of public.agent_messages does not go with statements of the broker, so what agents send is inserted",
            "alerts are escalated by slower statements",
            "`drop rule audited on public.agent_messages`",
        ],
    )
    .await;
    warned(
        "create rule beside as on update to agent_messages do also select 1",
        &["The rule beside of public.agent_messages does not go with statements of the broker, so outcomes are written one by one"],
    )
    .await;
    // This trigger fails only at the commit, where nothing else would tell.
    warned(
        "create function late_f() returns trigger language plpgsql as $$ begin
           if new.status = 'failed' then raise exception 'no'; end if; return null; end $$;
         create constraint trigger late after update on agent_messages deferrable initially deferred
           for each row execute function late_f()",
        &["The trigger late of public.agent_messages raises an exception, so dead letters"],
    )
    .await;
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

/// The URL of the same database for that role.
pub(crate) fn owner_url(db: &TestDb) -> String {
    let url = db.url();
    let (_, rest) = url.split_once('@').expect("url with a password");
    format!("postgres://mesh_owner:secret@{rest}")
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

/// Notifications of the user's triggers are rolled back with the rehearsal, and so are the rings of the broker's own.
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
    // Notifications keep the order of commits, so this one comes after any earlier ring.
    client.batch("notify loud").await.expect("notify");
    assert_eq!(hears.recv().await.as_deref(), Some("loud"));
    assert!(hears.try_recv().is_err());
}
