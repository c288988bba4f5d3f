//! Meshes that nobody thought of: tables with random constraints, triggers, types, defaults, rules, policies and
//! duplicates. Each is refused by a name that exists, with nothing changed, or a message lives in it through a real
//! broker.
//!
//! `POSTBELL_MESHES=200 cargo test meshes` tries more of them, `POSTBELL_MESHES_FROM=96` begins at that seed; a failure names
//! its seed.

mod changes;

use std::time::Duration;

use postbell::store::Connection;
use postbell::store::agents::{self, NewAgent};
use postbell::store::migrate::{Plan, migrate, plan};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::timeout;

use crate::harness::{EXISTING_MESH, TestDb, fresh, roles, texts};
use crate::mesh::{Mesh, next};
use crate::rehearsal::{everything, owned, owner_url};

/// An uninvolved agent's message is served within this.
const SERVED_WITHIN: Duration = Duration::from_secs(5);

const SEEDS: u64 = 12;

/// Names of columns, constraints, triggers, rules and indexes of the mesh's tables.
const NAMES: &str = "
    with tables as (select oid from pg_class where relnamespace = 'public'::regnamespace
                    and relname in ('agent_messages', 'agent_registry', 'agent_alerts', 'agent_metrics'))
    select attname::text from pg_attribute where attrelid in (select oid from tables) and attnum > 0 and not attisdropped
    union select conname::text from pg_constraint where conrelid in (select oid from tables)
    union select tgname::text from pg_trigger where tgrelid in (select oid from tables) and not tgisinternal
    union select rulename::text from pg_rewrite where ev_class in (select oid from tables)
    union select indexrelid::regclass::text from pg_index where indrelid in (select oid from tables)";

#[tokio::test]
async fn a_mesh_at_random_is_refused_by_name_or_serves() {
    let setting = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let from = setting("POSTBELL_MESHES_FROM").unwrap_or(0);
    let seeds = setting("POSTBELL_MESHES").unwrap_or(SEEDS);
    let (mut refused, mut served) = (0, 0);
    for seed in from..from + seeds {
        match tried(seed).await {
            true => served += 1,
            false => refused += 1,
        }
    }
    eprintln!("{refused} refused, {served} served");
    assert!(
        seeds < SEEDS || (refused > 0 && served > 0),
        "{refused} refused, {served} served: the generator is one-sided"
    );
}

/// Whether the mesh of this seed serves.
async fn tried(seed: u64) -> bool {
    let mut random = StdRng::seed_from_u64(seed);
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, EXISTING_MESH).await;
    let mut made = Vec::new();
    for change in changes::some(&mut random) {
        // A change that contradicts an earlier one is left out.
        if client.batch(&change).await.is_ok() {
            made.push(change);
        }
    }
    let story = format!("seed {seed}: {}", made.join(";\n"));
    let owner = owned(&db, &client).await;
    let broker = Connection::open(&owner).await.expect("opens");
    let before = everything(&client).await;
    let planned = plan(&broker).await;
    assert_eq!(everything(&client).await, before, "the dry run changed something: {story}");
    match planned {
        Err(refusal) => {
            is_named(&client, &refusal.to_string(), &story).await;
            migrate(&owner).await.map(|_| ()).expect_err(&story);
            assert_eq!(everything(&client).await, before, "the refused migration changed something: {story}");
            false
        }
        Ok(planned) => {
            let done = migrate(&owner).await.unwrap_or_else(|e| panic!("{e}: {story}"));
            same(&planned, &done, &story);
            serves(TestDb::at(owner_url(&db)), &story).await;
            true
        }
    }
}

fn same(planned: &Plan, done: &Plan, story: &str) {
    assert_eq!((&planned.migrations, &planned.triggers), (&done.migrations, &done.triggers), "{story}");
    assert_eq!((&planned.adoption, planned.deliveries), (&done.adoption, done.deliveries), "{story}");
    assert_eq!(planned.warnings, done.warnings, "{story}");
}

async fn is_named(client: &Connection, refusal: &str, story: &str) {
    let tables = ["agent_messages", "agent_registry", "agent_alerts", "agent_metrics"];
    assert!(
        tables.iter().any(|table| refusal.contains(&format!("public.{table}"))),
        "no table: {refusal}\n{story}"
    );
    let words: Vec<&str> = refusal.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let names = texts(client, NAMES).await;
    let named = names.iter().any(|name| words.contains(&name.as_str()));
    // These refusals are about a whole table, or about a column that is missing.
    let whole = ["row level security", "it is a", "it lacks"].iter().any(|part| refusal.contains(part));
    assert!(named || whole, "no name: {refusal}\n{story}");
    assert!(refusal.contains("Nothing was changed"), "{refusal}\n{story}");
}

/// The token of `u`, registered with the words that the registry takes.
async fn registered(db: &TestDb, story: &str) -> String {
    let u = NewAgent { agent_id: "u", ..NewAgent::default() };
    if let Ok(added) = agents::add(&db.pool(), &u).await {
        return added.token.reveal().to_owned();
    }
    let sql = db.sql().await;
    let row =
        sql.query_one("select agent_type, environment from agent_registry limit 1", &[]).await.expect(story);
    let (agent_type, environment): (String, String) = (row.get(0), row.get(1));
    let u = NewAgent { agent_type: Some(&agent_type), environment: Some(&environment), ..u };
    agents::add(&db.pool(), &u).await.expect(story).token.reveal().to_owned()
}

/// A message to an uninvolved agent comes in time, and is over when it is acknowledged.
async fn serves(db: TestDb, story: &str) {
    let mesh = Mesh::on(db, &[]).await;
    let token = registered(&mesh.db, story).await;
    let (_u, mut deliveries) = mesh.builder("u", &token).window(10).connect().await.expect(story);
    let sql = mesh.db.sql().await;
    let own = "insert into agent_messages (message_id, from_agent_id, to_agent_id, message_type, payload)
               values (gen_random_uuid(), 'sql', 'u', 'data', '{}')";
    let like_others =
        "insert into agent_messages (message_id, from_agent_id, to_agent_id, message_type, payload)
                       select gen_random_uuid(), from_agent_id, 'u', message_type, payload from agent_messages
                       where to_agent_id is not null limit 1";
    if sql.batch_execute(own).await.is_err() {
        sql.batch_execute(like_others).await.unwrap_or_else(|e| panic!("{e:?}: {story}"));
    }
    let delivery =
        timeout(SERVED_WITHIN, next(&mut deliveries)).await.unwrap_or_else(|_| panic!("u waits: {story}"));
    timeout(SERVED_WITHIN, delivery.ack_confirmed())
        .await
        .unwrap_or_else(|_| panic!("the acknowledgement is not written: {story}"))
        .unwrap_or_else(|e| panic!("{e}: {story}"));
    mesh.db.until("select status = 'processed' from agent_messages where to_agent_id = 'u'").await;
    mesh.stop().await;
}
