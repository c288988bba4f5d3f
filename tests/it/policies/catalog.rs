//! The policies and schema postbell by the catalogs, so that later additions keep to the rules.

use std::collections::BTreeMap;

use postbell::store::doctor::{Level, examine};

use super::{apply_on, claim, closed};
use crate::harness::{migrated, texts};

const POLICIES: &str = "select p.polrelid::regclass || ' ' || p.polname || ' ' || p.polcmd::text || ' ' || p.polpermissive || ' '
      || coalesce(pg_get_expr(p.polqual, p.polrelid), '-') || ' ' || coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '-')
    from pg_policy p order by 1";

const GRANTS: &str =
    "select c.relname || ' ' || coalesce(a.attname, '*') || ' ' || coalesce(a.attacl, c.relacl)::text
    from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attacl is not null
    where c.relname in ('agent_messages', 'agent_registry') order by 1";

#[tokio::test]
async fn applied_again_it_is_the_same() {
    let db = closed().await;
    let client = db.client().await;
    let before = (texts(&client, POLICIES).await, texts(&client, GRANTS).await);
    assert!(before.0.len() > 10 && before.1.iter().any(|g| g.contains("authenticated=")), "{before:?}");
    apply_on(&db).await;
    assert_eq!((texts(&client, POLICIES).await, texts(&client, GRANTS).await), before);
}

#[tokio::test]
async fn no_policy_is_true_and_each_permissive_one_has_its_restrictive_twin() {
    let db = closed().await;
    let rows = db
        .sql()
        .await
        .query(
            "select p.polrelid::regclass || ' ' || p.polname as name, p.polpermissive, array[p.polcmd::text,
                    coalesce(pg_get_expr(p.polqual, p.polrelid), ''), coalesce(pg_get_expr(p.polwithcheck, p.polrelid), '')],
                    coalesce(pg_get_expr(p.polqual, p.polrelid), '') || ' ' || coalesce(pg_get_expr(p.polwithcheck, p.polrelid), ''),
                    0 = any (p.polroles)
             from pg_policy p",
            &[],
        )
        .await
        .expect("policies");
    let all: BTreeMap<String, (bool, Vec<String>)> =
        rows.iter().map(|r| (r.get(0), (r.get(1), r.get(2)))).collect();
    for row in &rows {
        let (name, text): (String, String) = (row.get(0), row.get(3));
        assert!(!text.split_whitespace().any(|word| word == "true"), "{name} is {text}");
        assert!(!row.get::<_, bool>(4), "{name} is for everybody");
    }
    for (name, (permissive, rule)) in &all {
        if *permissive {
            assert_eq!(all.get(&format!("{name}_only")), Some(&(false, rule.clone())), "{name}");
        }
    }
    assert_eq!(all.values().filter(|(permissive, _)| *permissive).count(), 10);
}

/// Functions with their owner's rights that have no search_path of their own, or that everybody may call.
const LOOSE: &str = "select p.oid::regprocedure::text from pg_proc p
    where p.pronamespace = 'postbell'::regnamespace and p.prosecdef
      and (not exists (select from unnest(p.proconfig) c where c like 'search_path=%')
           or has_function_privilege('public', p.oid, 'execute')) order by 1";

#[tokio::test]
async fn no_function_with_its_owners_rights_is_loose() {
    for db in [migrated().await, closed().await] {
        let client = db.client().await;
        assert_eq!(texts(&client, LOOSE).await, [""; 0]);
        let definers =
            "select proname::text from pg_proc where pronamespace = 'postbell'::regnamespace and prosecdef";
        assert!(texts(&client, definers).await.len() >= 4, "the triggers' functions at least");
        // The check sees a function that breaks the rule.
        client
            .batch(
                "create function postbell.loose() returns int language sql security definer as 'select 1';
                 create function postbell.public() returns int language sql security definer
                   set search_path = pg_catalog, pg_temp as 'select 1';
                 create function postbell.pathless() returns int language sql security definer as 'select 1';
                 revoke all on function postbell.pathless() from public",
            )
            .await
            .expect("functions");
        let loose = ["postbell.loose()", "postbell.pathless()", "postbell.public()"];
        assert_eq!(texts(&client, LOOSE).await, loose);
        let checks = examine(&db.target()).await;
        let failed: Vec<_> =
            checks.iter().filter(|c| c.check == "api roles" && c.level == Level::Fail).collect();
        assert_eq!(failed.len(), 3, "{checks:?}");
    }
}

/// Functions of schema postbell that everybody may call: only those that a producer's INSERT calls.
#[tokio::test]
async fn everybody_may_call_what_makes_ids_and_nothing_else() {
    let db = closed().await;
    let open = "select p.oid::regprocedure::text from pg_proc p
                where p.pronamespace = 'postbell'::regnamespace and has_function_privilege('public', p.oid, 'execute')";
    assert_eq!(texts(&db.client().await, open).await, ["postbell.uuid_v7()"]);
}

#[tokio::test]
async fn who_asks_is_asked_once_a_statement() {
    let db = closed().await;
    let sql = db.sql().await;
    for statement in [
        "select from agent_messages",
        "update agent_messages set status = 'processed'",
        "select agent_id from agent_registry",
        "update agent_registry set status = 'online'",
    ] {
        sql.batch_execute("begin; set local role authenticated").await.expect("role");
        sql.execute("select set_config('request.jwt.claims', $1, true)", &[&claim("a")])
            .await
            .expect("claim");
        let explain = format!("explain (costs off) {statement}");
        let rows = sql.query(explain.as_str(), &[]).await.expect(statement);
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        sql.batch_execute("rollback").await.expect("rollback");
        assert!(plan.iter().any(|line| line.contains("InitPlan")), "{statement}: {plan:#?}");
        let by_row =
            |line: &&String| (line.contains("Filter") || line.contains("Cond")) && line.contains("api_agent");
        assert_eq!(plan.iter().find(by_row), None, "{plan:#?}");
    }
}
