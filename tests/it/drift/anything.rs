//! Any single object that the version needs, dropped or altered in any way, with messages waiting or not.

use postbell::store::Connection;
use postbell::store::drift::{Object, needed};
use postbell::store::migrate::{migrate, plan, schema_state};

use super::{a_message_lives, told};
use crate::harness::{migrated, number};

/// A seeded generator; each failure names the seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
}

const CASES: usize = 30;

/// A random statement that harms an object.
fn harm(object: &Object, dice: &mut Dice) -> String {
    let Object { kind, parent, name, .. } = object;
    let pick = |dice: &mut Dice, all: &[String]| all[dice.below(all.len())].clone();
    match kind.as_str() {
        "table" => pick(
            dice,
            &[format!("drop table {name} cascade"), format!("alter table {name} rename to elsewhere")],
        ),
        "column" => pick(
            dice,
            &[
                format!("alter table {parent} drop column {name} cascade"),
                format!("alter table {parent} rename column {name} to elsewhere"),
            ],
        ),
        "constraint" => format!("alter table {parent} drop constraint {name} cascade"),
        "index" => {
            let schema = if parent.starts_with("postbell.") { "postbell." } else { "" };
            pick(
                dice,
                &[
                    format!("drop index {schema}{name}"),
                    format!(
                        "update pg_index set indisvalid = false where indexrelid = '{schema}{name}'::regclass"
                    ),
                    format!("drop index {schema}{name}; create index {name} on {parent} using brin (ctid)"),
                ][..2],
            )
        }
        "index by" => format!("drop index {parent}_{name}"),
        "key" => format!("alter table {parent} drop constraint {parent}_pkey"),
        "view" => pick(
            dice,
            &[
                format!("drop view postbell.{name} cascade"),
                format!("alter view postbell.{name} rename to elsewhere"),
                format!("drop view postbell.{name} cascade; create view postbell.{name} as select 1 as one"),
            ],
        ),
        "function" => pick(
            dice,
            &[
                format!("drop function {name} cascade"),
                format!("alter function {name} rename to elsewhere"),
                format!("alter function {name} set work_mem = '1MB'"),
                format!("alter function {name} security definer"),
            ],
        ),
        "trigger" => pick(
            dice,
            &[
                format!("drop trigger {name} on {parent}"),
                format!("alter table {parent} disable trigger {name}"),
                format!("alter trigger {name} on {parent} rename to elsewhere"),
            ],
        ),
        "sequence" => format!("drop sequence postbell.{name} cascade"),
        "type" => pick(
            dice,
            &[
                format!("drop type postbell.{name} cascade"),
                format!("alter type postbell.{name} add value 'lost'"),
            ],
        ),
        other => panic!("a new kind: {other}"),
    }
}

/// A random object, each kind equally often, since there are far more columns than sequences.
fn any(dice: &mut Dice) -> &'static Object {
    let kinds = [
        "table",
        "column",
        "column",
        "constraint",
        "index",
        "index by",
        "key",
        "view",
        "function",
        "trigger",
        "sequence",
        "type",
    ];
    let kind = kinds[dice.below(kinds.len())];
    let all: Vec<_> = needed().iter().filter(|o| o.kind == kind).collect();
    all[dice.below(all.len())]
}

#[tokio::test]
async fn whatever_is_harmed_is_named_and_mended_or_has_a_way_out() {
    let seed = std::env::var("POSTBELL_DRIFT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(13);
    let mut dice = Dice(seed);
    let mut mended = 0;
    for case in 0..CASES {
        let object = any(&mut dice);
        let (harm, waits) = (harm(object, &mut dice), dice.below(2) == 0);
        let why = format!(
            "seed {seed}, case {case}: {harm}, {} waits",
            if waits { "a message" } else { "nothing" }
        );
        // Shown if the test fails.
        println!("{why}");
        let db = migrated().await;
        let client = db.client().await;
        if waits {
            let send = "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload) values ('s', 'lives', 'data', '0')";
            client.batch(send).await.expect("a message");
        }
        client.batch(&harm).await.unwrap_or_else(|e| panic!("{why}: {e}"));
        let state = schema_state(&client).await.unwrap_or_else(|e| panic!("{why}: {e}"));
        if object.kind == "index by" {
            assert_eq!(state.refusal(), None, "{why}: it is only slow");
            continue;
        }
        let said = told(&db).await;
        let name = object.name.split('(').next().unwrap_or_default();
        let is_record = object.name.contains("migrations") || object.parent.contains("migrations");
        assert!(said.contains(name) || is_record && said.contains("record of migrations"), "{why}: {said}");
        assert!(state.refusal().is_some(), "{why}");
        let planned = plan(&Connection::open(&db.target()).await.expect("connect")).await;
        assert!(planned.as_ref().is_ok_and(|p| !p.is_empty()), "{why}: {planned:?}");

        let done = migrate(&db.target()).await.unwrap_or_else(|e| panic!("{why}: {e}"));
        if !done.left.is_empty() {
            assert!(done.left.iter().any(|s| s.contains(name) && s.contains(": ")), "{why}: {:?}", done.left);
            continue;
        }
        mended += 1;
        assert_eq!(told(&db).await, "", "{why}");
        if waits && number(&client, "select count(*) from agent_messages").await == 1 {
            let waiting =
                "select count(*) from postbell.deliveries where inbox = 'lives' and state = 'ready'";
            // If the harm dropped the column of the address, the message has no recipient any more.
            if !harm.contains("to_agent_id") {
                assert_eq!(number(&client, waiting).await, 1, "{why}: what waited waits once");
            }
        }
        a_message_lives(&db, &why).await;
    }
    assert!(mended > CASES / 2, "{mended} of {CASES}");
}
