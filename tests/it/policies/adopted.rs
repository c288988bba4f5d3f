//! The policies on a mesh that had its own, too open ones; and what `postbell doctor` says before and after.

use postbell::store::doctor::{Check, Level, examine};
use postbell::store::migrate::migrate;

use super::{ROLES, apply_on, as_agent, try_as};
use crate::harness::{EXISTING_MESH, TestDb, fresh, roles};

async fn adopted() -> TestDb {
    let db = fresh().await;
    let client = db.client().await;
    roles(&client, ROLES).await;
    roles(&client, EXISTING_MESH).await;
    client
        .batch("grant usage on schema public to anon, authenticated, service_role")
        .await
        .expect("as on Supabase");
    migrate(&db.target()).await.expect("migrate");
    db
}

fn said(checks: &[Check]) -> Vec<&str> {
    let about = |c: &&Check| ["policies", "api roles"].contains(&c.check) && c.level != Level::Ok;
    checks.iter().filter(about).map(|c| c.sentence.as_str()).collect()
}

const COUNT: &str = "select count(*) from agent_messages";

#[tokio::test]
async fn a_policy_that_opens_all_opens_no_more_than_ours() {
    let db = adopted().await;
    let all = db.ask::<i64>(COUNT).await;
    // Until the policies are applied, nothing has changed for anybody.
    assert_eq!(try_as(&db, "authenticated", "", COUNT).await, Ok(vec![all.to_string()]));
    let applied = apply_on(&db).await;
    assert_eq!(applied.foreign, ["service role on agent_messages", "service role on agent_registry"]);
    assert_eq!(try_as(&db, "authenticated", "", COUNT).await, Ok(vec!["0".to_owned()]));
    let own = db
        .ask::<i64>(
            "select count(*) from agent_messages m where 'validation-agent' in (to_agent_id, from_agent_id)
               or exists (select from postbell.deliveries d
                          where d.message_id = m.message_id and d.inbox = 'validation-agent')",
        )
        .await;
    assert!((1..all).contains(&own));
    assert_eq!(as_agent(&db, "validation-agent", COUNT).await, Ok(vec![own.to_string()]));
    assert_eq!(try_as(&db, "service_role", "", COUNT).await, Ok(vec![all.to_string()]));
}

#[tokio::test]
async fn the_doctor_says_what_is_open_until_it_is_closed() {
    let db = adopted().await;
    let client = db.client().await;
    client
        .batch(
            "grant all on agent_messages to anon; alter table agent_messages disable row level security;
             create policy any_status on agent_registry for update to authenticated using (true);
             grant usage on schema postbell to anon",
        )
        .await
        .expect("opened");
    let checks = examine(&db.target()).await;
    let all = said(&checks).join("\n");
    for sentence in [
        "anon and authenticated may read every row of agent_messages, since row level security is off",
        "anon and authenticated may write every row of agent_messages, since row level security is off",
        "anon and authenticated may TRUNCATE agent_messages",
        "authenticated may TRUNCATE agent_registry",
        "authenticated may write any row of agent_registry by policy \"any_status\"",
        "authenticated may read token_hash in agent_registry",
        "anon may look into schema postbell",
        "`postbell policies apply` closes it",
    ] {
        assert!(all.contains(sentence), "{sentence} is missing in:\n{all}");
    }
    apply_on(&db).await;
    assert_eq!(said(&examine(&db.target()).await), [""; 0]);
}

#[tokio::test]
async fn who_used_an_open_table_is_named_before_it_wonders() {
    let db = adopted().await;
    let client = db.client().await;
    roles(
        &client,
        "do $$ begin if to_regrole('reporting') is null then create role reporting; end if; end $$",
    )
    .await;
    client
        .batch("alter table agent_messages disable row level security; grant select on agent_messages to reporting")
        .await
        .expect("opened");
    assert_eq!(apply_on(&db).await.shut_out, ["reporting"]);
    assert_eq!(apply_on(&db).await.shut_out, [""; 0], "it is on now");
}
