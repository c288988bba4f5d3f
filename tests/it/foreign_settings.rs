//! Settings of the database that change the meaning of SQL, or the words of the catalogs, change nothing here.
//!
//! `POSTBELL_SETTINGS=50 cargo test foreign_settings` tries more sets of them; a failure names its set.

use postbell::store::doctor::{Level, examine};
use postbell::store::migrate::migrate;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

use crate::harness::{EXISTING_MESH, TestDb, command, fresh, roles};
use crate::mesh::{Mesh, insert};
use crate::rehearsal::{owned, owner_url};
use crate::settle::SERVED;

const SEEDS: u64 = 3;

/// Settings that anybody may have on a database, with values other than the server's own.
const SETTINGS: &[(&str, &[&str])] = &[
    ("IntervalStyle", &["sql_standard", "postgres_verbose", "iso_8601"]),
    ("standard_conforming_strings", &["off"]),
    ("quote_all_identifiers", &["on"]),
    ("plpgsql.extra_errors", &["'all'"]),
    ("DateStyle", &["'SQL, DMY'", "German"]),
    ("TimeZone", &["'Asia/Kathmandu'"]),
    ("bytea_output", &["escape"]),
    ("extra_float_digits", &["-15"]),
    ("array_nulls", &["off"]),
    ("transform_null_equals", &["on"]),
    ("escape_string_warning", &["off"]),
    ("backslash_quote", &["off", "on"]),
    ("xmloption", &["document"]),
    ("default_text_search_config", &["'pg_catalog.simple'"]),
    ("plpgsql.variable_conflict", &["use_column", "use_variable"]),
    ("plpgsql.extra_warnings", &["'all'"]),
    ("plpgsql.check_asserts", &["off"]),
    ("plpgsql.print_strict_params", &["on"]),
    ("check_function_bodies", &["off"]),
    ("default_transaction_isolation", &["serializable", "'repeatable read'"]),
    ("default_transaction_deferrable", &["on"]),
    ("default_transaction_read_only", &["on"]),
    ("row_security", &["off"]),
    ("exit_on_error", &["on"]),
    ("client_min_messages", &["debug5", "error"]),
    ("gin_fuzzy_search_limit", &["1"]),
    ("lock_timeout", &["'1ms'"]),
    ("idle_in_transaction_session_timeout", &["'1ms'"]),
    ("enable_indexscan", &["off"]),
    ("enable_nestloop", &["off"]),
    ("enable_material", &["off"]),
    ("from_collapse_limit", &["1"]),
    ("join_collapse_limit", &["1"]),
    ("cursor_tuple_fraction", &["0.01"]),
    ("work_mem", &["'64kB'"]),
    ("force_parallel_mode", &["on"]),
    ("search_path", &["nowhere", "'$user', extensions"]),
    ("lc_numeric", &["'C'"]),
    ("statement_timeout", &["'20s'"]),
    ("synchronize_seqscans", &["off"]),
];

/// With some of the settings no producer could write; the test's producer does without those.
const AS_A_PRODUCER: &str =
    "set default_transaction_read_only = off; set search_path = public; set exit_on_error = off; set lock_timeout = 0;
     set idle_in_transaction_session_timeout = 0";

/// Each setting with each value, one set for each place in the lists, and then sets at random.
fn sets(seeds: u64) -> Vec<Vec<(&'static str, &'static str)>> {
    let most = SETTINGS.iter().map(|(_, values)| values.len()).max().unwrap_or(0);
    let at = |n: usize| SETTINGS.iter().map(|(name, values)| (*name, values[n % values.len()])).collect();
    let mut sets: Vec<_> = (0..most).map(at).collect();
    for seed in 0..seeds {
        let mut random = StdRng::seed_from_u64(seed);
        let mut some = Vec::new();
        for (name, values) in SETTINGS {
            if random.random_bool(0.4) {
                some.push((*name, values[random.random_range(0..values.len())]));
            }
        }
        sets.push(some);
    }
    sets
}

async fn set(db: &TestDb, settings: &[(&str, &str)]) {
    let sql = db.sql().await;
    let database: String =
        sql.query_one("select current_database()::text", &[]).await.expect("a name").get(0);
    for (name, value) in settings {
        let set = format!("alter database {database} set {name} = {value}");
        match sql.batch_execute(&set).await {
            // This server has no setting of that name.
            Err(e) if e.code().is_some_and(|c| c.code() == "42704") => {}
            done => done.expect(&set),
        }
    }
}

/// Nothing is wrong, neither for the doctor nor for a second `migrate`.
async fn is_well(db: &TestDb, story: &str) {
    let checks = examine(&db.target()).await;
    assert!(checks.iter().all(|c| c.level != Level::Fail), "{checks:?}\n{story}");
    let again = migrate(&db.target()).await.unwrap_or_else(|e| panic!("migrate again: {e}\n{story}"));
    assert!(again.is_empty(), "{again:?}\n{story}");
}

/// A message comes and is acknowledged, sent by an agent and by SQL, and one fails and is a dead letter.
async fn serves(db: TestDb, story: &str) {
    let producer = db.sql().await;
    producer.batch_execute(AS_A_PRODUCER).await.expect("a producer");
    let mesh = Mesh::on(db, &[("POSTBELL_RETRY_BASE_MS", "10")]).await;
    let token = mesh.db.agent("u").await;
    let mut u = mesh.raw_with("u", &token, 10).await;
    let life = async {
        insert(&producer, "u", 5, r#""by \\ SQL""#).await;
        let tag = u.expect("msg").await["tag"].clone();
        u.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"1"}}"#)).await;
        u.expect("acked").await;
        let send = r#"{"op":"send","to":"u","type":"data","payload":{"at":1.5},"correlation_id":"a\\b'c","ref":"2"}"#;
        u.say(send).await;
        let (mut sent, mut tag) = (false, None);
        while !sent || tag.is_none() {
            let line: serde_json::Value =
                serde_json::from_str(&u.line().await.expect("a line")).expect("JSON");
            match line["op"].as_str() {
                Some("sent") => sent = true,
                Some("msg") => tag = Some(line["tag"].clone()),
                _ => panic!("{line}\n{story}"),
            }
        }
        let tag = tag.expect("a tag");
        u.say(&format!(r#"{{"op":"nack","tag":{tag},"outcome":"dead","reason":"it\\'s"}}"#)).await;
    };
    timeout(SERVED, life).await.unwrap_or_else(|_| panic!("u is not served\n{story}"));
    for (status, what) in [("processed", "the ack"), ("failed", "the dead letter")] {
        let written = format!(
            "select count(*) = 1 from public.agent_messages where to_agent_id = 'u' and status = '{status}'"
        );
        timeout(SERVED, mesh.db.until(&written)).await.unwrap_or_else(|_| panic!("{what}\n{story}"));
    }
    let online = "select status = 'online' from public.agent_registry where agent_id = 'u'";
    timeout(SERVED, mesh.db.until(online)).await.unwrap_or_else(|_| panic!("presence\n{story}"));
    mesh.until_ready(true).await;
    assert_eq!(mesh.db.ask::<i64>("select count(*) from postbell.set_aside").await, 0, "{story}");
    is_well(&mesh.db, story).await;
    mesh.stop().await;
}

#[tokio::test]
async fn a_mesh_is_adopted_and_lives_under_any_settings_of_the_database() {
    let seeds = std::env::var("POSTBELL_SETTINGS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    for settings in sets(seeds) {
        let story = format!("{settings:?}");
        let db = fresh().await;
        let client = db.client().await;
        roles(&client, EXISTING_MESH).await;
        let owner = owned(&db, &client).await;
        set(&db, &settings).await;
        migrate(&owner).await.unwrap_or_else(|e| panic!("{e}\n{story}"));
        serves(TestDb::at(owner_url(&db)), &story).await;
    }
}

#[tokio::test]
async fn settings_that_come_later_make_the_doctor_say_nothing_false() {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    migrate(&db.target()).await.expect("migrates");
    for setting in [
        ("IntervalStyle", "sql_standard"),
        ("standard_conforming_strings", "off"),
        ("quote_all_identifiers", "on"),
        ("exit_on_error", "on"),
        ("plpgsql.extra_errors", "'all'"),
    ] {
        set(&db, &[setting]).await;
        is_well(&db, setting.0).await;
        let said = command(&db, &["doctor"]).await;
        assert_eq!(said.status, 0, "{setting:?}: {}{}", said.stdout, said.stderr);
    }
}
