//! Triggers that leave a setting behind on the broker's connection: `set role`, `set_config(…, false)`. The setting outlives the
//! trigger's statement, and statements for everybody else would run under it.
//!
//! A trigger leaves behind what the table `behind` says, at the rows of agents whose names begin with `a`. Another one notes, at the
//! rows of those that begin with `u`, which of these settings it found.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{SERVED, Two};
use crate::mesh::{Raw, insert};

/// Settings that change what a statement means, how long it waits, or which rights it has. For those of `""` the trigger carries out
/// the second word.
const SETTINGS: &[(&str, &str)] = &[
    ("lock_timeout", "0"),
    ("lock_timeout", "7s"),
    ("lock_timeout", "1ms"),
    ("statement_timeout", "0"),
    ("statement_timeout", "7s"),
    ("statement_timeout", "1ms"),
    ("idle_in_transaction_session_timeout", "7s"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("idle_session_timeout", "1ms"),
    ("transaction_timeout", "1ms"),
    ("search_path", ""),
    ("role", "authenticated"),
    ("session_authorization", "authenticated"),
    ("row_security", "off"),
    ("session_replication_role", "replica"),
    ("postbell.broker", "off"),
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("synchronous_commit", "off"),
    ("TimeZone", "Asia/Tokyo"),
    ("DateStyle", "German, DMY"),
    ("IntervalStyle", "iso_8601"),
    ("extra_float_digits", "3"),
    ("bytea_output", "escape"),
    ("quote_all_identifiers", "on"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "on"),
    ("array_nulls", "off"),
    ("transform_null_equals", "on"),
    ("exit_on_error", "on"),
    ("client_min_messages", "debug5"),
    ("client_encoding", "LATIN1"),
    ("jit", "on"),
    ("plan_cache_mode", "force_custom_plan"),
    ("enable_indexscan", "off"),
    ("enable_seqscan", "on"),
    ("enable_memoize", "on"),
    ("random_page_cost", "9"),
    ("", "deallocate all"),
];

/// Writes that follow each other within 10 ms share one look.
const LOOKED: Duration = Duration::from_millis(10);

/// A change for the transaction alone is over with the transaction, or is refused.
const OF_A_TRANSACTION: &[(&str, &str)] =
    &[("transaction_isolation", "serializable"), ("transaction_read_only", "on")];

/// The triggers. `whom` is a column of the table.
fn triggers(event: &str, table: &str, whom: &str) -> String {
    format!(
        "create table if not exists behind (name text, value text);
         create table if not exists witness (name text, value text);
         grant select on behind to authenticated;
         create function leaves_{table}_{event}() returns trigger language plpgsql as $$
           declare b record; begin
             for b in select * from public.behind where starts_with(new.{whom}, 'a') loop
               if b.name = '' then execute b.value;
               elsif exists (select from pg_catalog.pg_settings s where s.name = b.name)
                     or b.name in ('role', 'session_authorization', 'postbell.broker') then
                 perform pg_catalog.set_config(b.name, b.value, false);
               end if;
             end loop;
             return new; end $$;
         create function notes_{table}_{event}() returns trigger language plpgsql security definer as $$
           begin
             insert into public.witness select b.name, b.value from public.behind b
             where starts_with(new.{whom}, 'u') and pg_catalog.current_setting(nullif(b.name, ''), true) = b.value;
             return new; end $$;
         create trigger leaves before {event} on {table} for each row execute function leaves_{table}_{event}();
         create trigger notes before {event} on {table} for each row execute function notes_{table}_{event}();
         alter table {table} enable always trigger notes;"
    )
}

impl Two {
    /// From now on the trigger leaves these behind.
    async fn leave(&self, settings: &[(&str, &str)]) {
        let (names, values): (Vec<&str>, Vec<&str>) = settings.iter().copied().unzip();
        let sql = self.mesh.db.sql().await;
        sql.execute("delete from behind", &[]).await.expect("none");
        let these = "insert into behind select * from unnest($1::text[], $2::text[])";
        sql.execute(these, &[&names, &values]).await.expect("these");
    }

    async fn ack_of_a(&mut self) {
        let tag = self.send_a("1").await["tag"].clone();
        self.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"a"}}"#)).await;
        timeout(SERVED, self.a.expect("acked")).await.expect("settled");
    }

    /// No statement for `u` ran under a setting that was left behind.
    async fn nobody_found_any(&self, story: &str) {
        let found = "select coalesce(string_agg(distinct name || ' = ' || value, ', '), '') from witness";
        assert_eq!(self.mesh.db.ask::<String>(found).await, "", "{story}");
    }
}

/// All that can be left behind at once, without ending the session.
fn all_at_once() -> Vec<(&'static str, &'static str)> {
    let alone = ["role", "session_authorization", "search_path", "default_transaction_read_only", ""];
    let mut all: Vec<_> = SETTINGS.iter().copied().filter(|(name, _)| !alone.contains(name)).collect();
    all.retain(|(_, value)| *value != "1ms" && *value != "0");
    all
}

#[tokio::test]
async fn of_an_ack_it_is_nobody_elses() {
    let mut two = Two::after(&triggers("update", "agent_messages", "to_agent_id")).await;
    for setting in SETTINGS.iter().chain(OF_A_TRANSACTION) {
        let story = format!("{setting:?}");
        two.leave(&[*setting]).await;
        // The second one is settled by statements that are prepared.
        for _ in 0..2 {
            two.ack_of_a().await;
            sleep(LOOKED).await;
            two.u_is_served().await;
        }
        two.nobody_found_any(&story).await;
    }
    two.leave(&[]).await;
    let done = "select bool_and(status = 'processed') from agent_messages where to_agent_id = 'u'";
    timeout(SERVED, two.mesh.db.until(done)).await.expect("written");
    two.mesh.until_ready(true).await;
    two.nothing_comes_again().await;
}

#[tokio::test]
async fn of_a_send_it_is_nobody_elses() {
    let mut two = Two::after(&triggers("insert", "agent_messages", "from_agent_id")).await;
    for setting in SETTINGS {
        let story = format!("{setting:?}");
        two.leave(&[*setting]).await;
        for n in 0..2 {
            let send =
                |of: &str| format!(r#"{{"op":"send","ref":"{of}{n}","to":"c","type":"data","payload":1}}"#);
            two.a.say(&send("a")).await;
            timeout(SERVED, two.a.expect("sent")).await.expect(&story);
            sleep(LOOKED).await;
            two.u.say(&send("u")).await;
            timeout(SERVED, two.u.expect("sent")).await.expect(&story);
        }
        two.nobody_found_any(&story).await;
    }
    let routed = "select count(*) from postbell.deliveries where inbox = 'c'";
    assert_eq!(two.mesh.db.ask::<i64>(routed).await, 4 * SETTINGS.len() as i64);
}

/// Nobody looked after the first one, so the second one meets what was left behind, and is tried again elsewhere.
#[tokio::test]
async fn a_send_that_follows_closely_is_not_refused() {
    let mut two = Two::after(&triggers("insert", "agent_messages", "from_agent_id")).await;
    let harsh = ["role", "search_path", "default_transaction_read_only", ""];
    for setting in SETTINGS.iter().filter(|(name, _)| harsh.contains(name)) {
        two.leave(&[*setting]).await;
        for n in 0..10 {
            let send =
                |of: &str| format!(r#"{{"op":"send","ref":"{of}{n}","to":"c","type":"data","payload":1}}"#);
            two.a.say(&send("a")).await;
            timeout(SERVED, two.a.expect("sent")).await.expect("stored");
            two.u.say(&send("u")).await;
            timeout(SERVED, two.u.expect("sent")).await.expect("stored");
        }
    }
}

/// The messages of `u` are marked after those of `a`.
#[tokio::test]
async fn of_a_mark_it_is_nobody_elses() {
    let mut two = Two::after(&triggers("update", "agent_messages", "to_agent_id")).await;
    two.leave(&all_at_once()).await;
    for to in ["a", "u", "a", "u"] {
        insert(&two.mesh.db.sql().await, to, 5, "1").await;
        let marked =
            format!("select bool_and(status = 'delivered') from agent_messages where to_agent_id = '{to}'");
        timeout(SERVED, two.mesh.db.until(&marked)).await.expect("marked");
    }
    two.nobody_found_any("marks").await;
    two.u.expect("msg").await;
}

/// A session, said hello for again where the server had ended the connection that a setting was left behind on.
async fn welcomed(two: &Two, agent: &str, token: &str) -> Raw {
    let hello = format!(r#"{{"op":"hello","agent":"{agent}","token":"{token}","window":5}}"#);
    let trying = async {
        loop {
            let mut raw = Raw::open(two.mesh.agents).await;
            raw.say(&hello).await;
            if raw.line().await.is_some_and(|line| line.contains("welcome")) {
                return raw;
            }
        }
    };
    timeout(SERVED, trying).await.expect("welcome")
}

#[tokio::test]
async fn of_an_agents_presence_it_is_nobody_elses() {
    let two = Two::after(&triggers("update", "agent_registry", "agent_id")).await;
    let settings = [all_at_once(), vec![("search_path", "")], vec![("role", "authenticated")]];
    for (n, settings) in settings.iter().enumerate() {
        let names = [format!("a{n}"), format!("u{n}")];
        two.leave(&[]).await;
        let tokens = [two.mesh.db.agent(&names[0]).await, two.mesh.db.agent(&names[1]).await];
        two.leave(settings).await;
        for (agent, token) in names.iter().zip(tokens) {
            let here = format!("select status = 'online' from agent_registry where agent_id = '{agent}'");
            let _raw = welcomed(&two, agent, &token).await;
            timeout(SERVED, two.mesh.db.until(&here)).await.expect("here");
        }
        two.nobody_found_any(&format!("{settings:?}")).await;
    }
    two.mesh.until_ready(true).await;
}

#[tokio::test]
async fn of_an_expiry_it_is_nobody_elses() {
    let two = Two::after(&triggers("update", "agent_messages", "to_agent_id")).await;
    two.leave(&all_at_once()).await;
    for to in ["a0", "u0", "a1", "u1"] {
        let expired = format!(
            "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload, expires_at)
             values ('sql', '{to}', 'data', '1', now() - interval '1 minute')"
        );
        two.mesh.db.sql().await.execute(&expired, &[]).await.expect("inserted");
        let failed = format!("select status = 'failed' from agent_messages where to_agent_id = '{to}'");
        two.mesh.db.until(&failed).await;
    }
    two.nobody_found_any("expiry").await;
    two.mesh.until_ready(true).await;
}

/// Another transaction holds the messages of `u`, and the settler would wait for them as long as the server lets it.
#[tokio::test]
async fn a_lock_is_waited_for_as_long_as_ever() {
    let mut two = Two::after(&triggers("update", "agent_messages", "to_agent_id")).await;
    two.leave(&[("lock_timeout", "0"), ("statement_timeout", "0")]).await;
    let rounds = async {
        for _ in 0..3 {
            insert(&two.mesh.db.sql().await, "u", 5, "1").await;
            let tag = two.u.expect("msg").await["tag"].clone();
            two.ack_of_a().await;
            let poller = two.mesh.db.sql().await;
            let hold = "begin; select from agent_messages where to_agent_id = 'u' for update";
            poller.batch_execute(hold).await.expect("held");
            two.u.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"u"}}"#)).await;
            two.u.expect("acked").await;
            poller.batch_execute("rollback").await.expect("let go");
        }
    };
    timeout(SERVED, rounds).await.expect("u is served thrice");
    two.mesh.until_ready(true).await;
    two.nothing_comes_again().await;
}

/// A deferred trigger would have no time limit, in the transaction of the trigger that leaves the setting behind.
#[tokio::test]
async fn nor_has_what_is_deferred_more_time_than_ever() {
    let slow = "create function dawdle() returns trigger language plpgsql as $$
                  begin if new.to_agent_id = 'a' then perform pg_sleep(60); end if; return null; end $$;
                create constraint trigger dawdle after update on agent_messages deferrable initially deferred
                  for each row execute function dawdle()";
    let ddl = format!("{}{slow}", triggers("update", "agent_messages", "to_agent_id"));
    let mut two = Two::after(&ddl).await;
    two.leave(&[("statement_timeout", "0")]).await;
    let tag = two.send_a("1").await["tag"].clone();
    two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"a"}}"#)).await;
    for _ in 0..2 {
        two.u_is_served().await;
    }
    timeout(SERVED, two.a.expect("acked")).await.expect("set aside");
    two.mesh.until_ready(true).await;
}
