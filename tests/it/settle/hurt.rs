//! A row of the user's is refused, and a part of Postbell's own tables is hurt as well: nobody else's outcome waits for that one.

use std::time::Duration;

use postbell::store::doctor::examine;
use tokio::time::timeout;
use tokio_postgres::Client;

use super::Two;
use crate::mesh::{Raw, insert};

/// How long an uninvolved agent's ack may take.
const SOON: Duration = Duration::from_secs(4);

/// The triggers refuse every change of the rows of `a`.
const REFUSED: &str = "
    create function refuse() returns trigger language plpgsql as $$
    begin
      if new.to_agent_id = 'a' and current_setting('postbell.broker', true) = 'on' then raise exception 'no'; end if;
      return new;
    end $$;
    create trigger refuse before update on agent_messages for each row execute function refuse()";

const RAISES: &str =
    "create function hurts() returns trigger language plpgsql as $$ begin raise 'no'; end $$;
    create trigger hurts before insert on postbell.set_aside for each row execute function hurts()";
const SLEEPS: &str = "create function hurts() returns trigger language plpgsql as
      $$ begin perform pg_sleep(2); return new; end $$;
    create trigger hurts before insert on postbell.set_aside for each row execute function hurts()";
const UNTRIGGER: &str = "drop trigger hurts on postbell.set_aside";

/// The SQL that hurts a part of the schema, the SQL that mends that, and words of the reason.
struct Kind {
    up: &'static str,
    down: &'static str,
    why: &'static str,
}

const OF_SET_ASIDE: [Kind; 6] = [
    Kind { up: RAISES, down: UNTRIGGER, why: "the trigger hurts of postbell.set_aside" },
    Kind { up: SLEEPS, down: UNTRIGGER, why: "57014" },
    Kind {
        up: "select setval(pg_get_serial_sequence('postbell.set_aside', 'aside_id'), 9223372036854775807)",
        down: "select setval(pg_get_serial_sequence('postbell.set_aside', 'aside_id'), 1)",
        why: "2200H",
    },
    Kind {
        // Looked at as broken, and not mended while the lock is there.
        up: "begin; lock table postbell.set_aside in access exclusive mode",
        down: "commit",
        why: "another transaction holds",
    },
    Kind {
        up: "alter table postbell.set_aside add constraint hurts check (inbox <> 'a')",
        down: "alter table postbell.set_aside drop constraint hurts",
        why: "the constraint hurts of postbell.set_aside",
    },
    Kind { up: "drop index postbell.set_aside_message", down: "", why: "" },
];

const OUTCOMES: [&str; 3] = [
    r#""op":"ack""#,
    r#""op":"nack","outcome":"dead","reason":"r""#,
    r#""op":"nack","outcome":"fail","reason":"r""#,
];

async fn say(agent: &mut Raw, tag: &serde_json::Value, what: &str) {
    agent.say(&format!(r#"{{{what},"tag":{tag},"ref":"r"}}"#)).await;
}

async fn hurt(two: &Two, ddl: &str) -> Client {
    let sql = two.mesh.db.sql().await;
    sql.batch_execute(ddl).await.expect(ddl);
    sql
}

/// `u` gets a message and has its ack confirmed soon, again and again.
async fn u_goes_on(two: &mut Two, what: &str) {
    for _ in 0..3 {
        timeout(SOON, two.u_is_served()).await.unwrap_or_else(|_| panic!("u waits: {what}"));
    }
}

/// One outcome of each kind for `a`, which can be written nowhere; then the part is mended.
#[tokio::test]
async fn whatever_hurts_set_aside_the_others_go_on() {
    for Kind { up, down, why } in OF_SET_ASIDE {
        let mut two = Two::after(REFUSED).await;
        let mut tags = Vec::new();
        for _ in OUTCOMES {
            tags.push(two.send_a("1").await["tag"].clone());
        }
        // So that a message that is given back has a mark to take back.
        two.mesh.db.sql().await.batch_execute(
            "set session_replication_role = replica; update agent_messages set status = 'delivered' where to_agent_id = 'a'",
        ).await.expect("marked");
        let sql = hurt(&two, up).await;
        for (tag, what) in tags.iter().zip(OUTCOMES) {
            say(&mut two.a, tag, what).await;
        }
        u_goes_on(&mut two, up).await;
        if !why.is_empty() {
            let said = two.mesh.until_ready(true).await;
            assert!(said.contains("can be written nowhere") && said.contains(why), "{up}: {said}");
        }
        sql.batch_execute(down).await.expect(down);
        two.mesh.until_metric("postbell_unsettled", |n| n == 0.0).await;
        two.mesh.db.until("select count(*) = 3 from postbell.set_aside where inbox = 'a'").await;
        let (_, stopped) = two.mesh.stop().await;
        assert_eq!(stopped.unsettled, 0, "{up}");
    }
}

/// The trigger of somebody's on the deliveries themselves.
#[tokio::test]
async fn a_delivery_that_cannot_be_removed_is_the_only_one() {
    for body in ["raise exception 'no' using errcode = '40001'", "raise 'no'", "perform pg_sleep(2)"] {
        let mut two = Two::after("").await;
        let tag = two.send_a("1").await["tag"].clone();
        let trigger = format!(
            "create function hurts() returns trigger language plpgsql as $$
             begin if old.inbox = 'a' then {body}; end if; return old; end $$;
             create trigger hurts before delete on postbell.deliveries for each row execute function hurts()"
        );
        hurt(&two, &trigger).await;
        say(&mut two.a, &tag, OUTCOMES[0]).await;
        u_goes_on(&mut two, body).await;
        hurt(&two, "drop trigger hurts on postbell.deliveries").await;
        two.a.expect("acked").await;
        two.nothing_comes_again().await;
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_what_can_be_written_nowhere() {
    let mut two = Two::after(REFUSED).await;
    let tag = two.send_a("1").await["tag"].clone();
    hurt(&two, RAISES).await;
    say(&mut two.a, &tag, OUTCOMES[0]).await;
    u_goes_on(&mut two, RAISES).await;
    let checks = examine(&two.mesh.db.target()).await;
    assert!(
        checks.iter().any(|c| c.sentence.contains("hurts") && c.sentence.contains("postbell.set_aside")),
        "{checks:?}"
    );
    let Two { mesh, a, u } = two;
    drop((a, u));
    let (db, stopped) = timeout(SOON, mesh.stop()).await.expect("stops in time");
    assert_eq!(stopped.unsettled, 1);
    let left = "select count(*) from postbell.deliveries where inbox = 'a' and state = 'ready'";
    assert_eq!(db.ask::<i64>(left).await, 1, "it is delivered again");
}

#[tokio::test]
async fn presence_and_expiry_go_on_without_a_note() {
    let of_registry = "create function silent() returns trigger language plpgsql as $$
         begin if new.agent_id = 'a' then raise 'no'; end if; return new; end $$;
       create trigger silent before update on agent_registry for each row execute function silent()";
    for up in [
        "drop index postbell.set_aside_presence",
        RAISES,
        "begin; lock table postbell.set_aside in access exclusive mode",
    ] {
        let mut two = Two::after(REFUSED).await;
        let _held = hurt(&two, up).await;
        let sql = hurt(&two, of_registry).await;
        sql.batch_execute(
            "update agent_registry set last_heartbeat = null, status = 'offline' where agent_id = 'u'",
        )
        .await
        .expect("u");
        let seen = two.mesh.db.until("select status = 'online' and last_heartbeat is not null from agent_registry where agent_id = 'u'");
        timeout(Duration::from_secs(30), seen).await.unwrap_or_else(|_| panic!("u is not seen: {up}"));
        if up == RAISES {
            sql.execute("insert into agent_registry (agent_id, agent_name, agent_type, environment, status) values ($1, $1, 'x', 'pc', 'offline') on conflict do nothing", &[&"nobody"]).await.expect("registered");
            insert(&sql, "nobody", 5, "1").await;
            sql.batch_execute("update agent_messages set expires_at = now() - interval '1 minute' where to_agent_id = 'nobody'").await.expect("late");
            two.mesh
                .db
                .until("select status = 'failed' from agent_messages where to_agent_id = 'nobody'")
                .await;
        }
        u_goes_on(&mut two, up).await;
        two.mesh.stop().await;
    }
}
