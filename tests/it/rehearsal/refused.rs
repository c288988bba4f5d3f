//! Tables in which no message could live are refused by the name of what stops it.

use postbell::store::Connection;
use postbell::store::migrate::{migrate, plan};

use super::{everything, mesh_with, owned, refused, trigger};
use crate::harness::{EXISTING_MESH, TestDb, command, fresh, roles};
use crate::require::missing;

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

/// An enumeration or a domain is a type that the broker's statements were not written for.
#[tokio::test]
async fn types_of_the_meshs_own_are_named() {
    let status = "drop column status cascade, add status word default 'pending'";
    for make in [
        "create type word as enum ('pending', 'delivered', 'processed', 'failed')",
        "create domain word as text check (value <> 'processed')",
    ] {
        let change = format!("{make}; alter table agent_messages {status}");
        refused(&change, &["public.agent_messages cannot be adopted: status is word, not text"]).await;
    }
}

/// Two names for one agent in the table would be two inboxes of a broker.
#[tokio::test]
async fn a_collation_that_takes_names_for_the_same_is_named() {
    let (_db, client) = mesh_with("").await;
    let make = "create collation loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";
    if client.batch(make).await.is_err() {
        return missing("this Postgres has no ICU");
    }
    let change = format!("{make}; alter table agent_registry alter agent_id type text collate loose");
    refused(&change, &["public.agent_registry", "agent_id has the collation loose"]).await;
}

#[tokio::test]
async fn triggers_that_stop_a_message_are_named() {
    let audit =
        trigger("audit", "after update", "agent_messages", "perform missing(new.message_id); return null;");
    refused(
        &audit,
        &["The trigger audit of public.agent_messages fails", "function missing(uuid) does not exist"],
    )
    .await;
    // A function must not be blamed because another function's name ends in its name.
    let innocent = "create function f() returns trigger language plpgsql as $f$ begin return null; end $f$;
                    create trigger innocent after insert on agent_messages for each row execute function f();";
    refused(&format!("{innocent} {audit}"), &["The trigger audit of public.agent_messages fails"]).await;
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
    let rule = "create rule still as on update to agent_registry do instead nothing";
    refused(
        rule,
        &["public.agent_registry", "he rule still of public.agent_registry", "no agent can be registered"],
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
    refused(
        index,
        &[
            "public.agent_messages_dedupe is something of your own",
            "needs a unique index agent_messages_dedupe",
        ],
    )
    .await;
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

/// A role that owns the tables and has no other rights is bound by row level security where that is forced.
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

/// A database with another encoding, or none, cannot hold every message.
#[tokio::test]
async fn a_database_of_another_encoding_is_refused_by_its_name() {
    let first = fresh().await;
    let name: String = first.ask("select current_database()::text").await;
    for encoding in ["SQL_ASCII", "LATIN1"] {
        let database = format!("{name}_{}", encoding.to_lowercase());
        let create = format!(
            "create database {database} encoding '{encoding}' lc_collate 'C' lc_ctype 'C' template template0"
        );
        first.sql().await.batch_execute(&create).await.expect("created");
        let db = TestDb::at(first.url_of(&database));
        let client = db.client().await;
        roles(&client, EXISTING_MESH).await;
        let before = everything(&client).await;
        for args in [&["migrate", "--dry-run"][..], &["migrate"], &["doctor"]] {
            let ended = command(&db, args).await;
            assert_eq!(ended.status, 1, "{args:?} on {encoding}: {}{}", ended.stdout, ended.stderr);
            let said = ended.stdout + &ended.stderr;
            let mend = "create database NAME encoding 'UTF8' template template0";
            for part in
                [format!("the encoding {encoding}").as_str(), "Postbell needs UTF8", mend, "the database URL"]
            {
                assert!(said.contains(part), "{args:?} on {encoding} does not say {part}: {said}");
            }
            assert_eq!(everything(&client).await, before, "{args:?} on {encoding}");
        }
    }
}
