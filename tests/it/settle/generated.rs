//! Tables with random constraints, triggers, generated columns and holders: in each, `u` is served, acknowledged
//! messages are over, and outcomes that could not be written are set aside.

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use tokio::time::timeout;

use super::{SERVED, Two};

/// Changes that somebody may have made to agent_messages. None of them refuses an INSERT.
const MESSAGES: &[&str] = &[
    "alter table agent_messages drop constraint if exists agent_messages_status_check;
     alter table agent_messages add constraint words check (status in ('pending', 'done')) not valid",
    "alter table agent_messages add check (status <> 'delivered') not valid",
    "alter table agent_messages add check (processed_at is null) not valid",
    "alter table agent_messages alter error_message type varchar(12)",
    "alter table agent_messages add check (status <> 'failed' or length(error_message) < 5) not valid",
    "delete from agent_messages; alter table agent_messages drop column status cascade;
     alter table agent_messages add status varchar(7) default 'pending'",
    "alter table agent_messages add column note text default 'x'; alter table agent_messages alter note set not null;
     create function m1() returns trigger language plpgsql as $$ begin new.note := null; return new; end $$;
     create trigger m1 before update on agent_messages for each row execute function m1()",
    "create function m2() returns trigger language plpgsql as $$
       begin if random() < 0.5 then raise exception 'sometimes' using errcode = '53200'; end if; return new; end $$;
     create trigger m2 before update on agent_messages for each row execute function m2()",
    "create function m3() returns trigger language plpgsql as $$ begin return null; end $$;
     create trigger m3 before update on agent_messages for each row execute function m3()",
    "create function m4() returns trigger language plpgsql as $$ begin perform nowhere(); return null; end $$;
     create trigger m4 after update on agent_messages for each statement execute function m4()",
    "create function m5() returns trigger language plpgsql as $$ begin assert false; return null; end $$;
     create trigger m5 after update of status on agent_messages for each row execute function m5()",
    "create function m6() returns trigger language plpgsql as $$
       begin if new.to_agent_id = 'a' then perform pg_sleep(3); end if; return new; end $$;
     create trigger m6 before update on agent_messages for each row execute function m6()",
    "create function m7() returns trigger language plpgsql as $$
       begin raise query_canceled; return new; end $$;
     create trigger m7 before update on agent_messages for each row when (new.to_agent_id = 'a') execute function m7()",
    "create rule m8 as on update to agent_messages do instead nothing",
    "alter table agent_messages drop column processed_at cascade;
     alter table agent_messages add processed_at timestamptz generated always as (delivered_at) stored",
    "create table audit (message_id uuid references agent_messages); revoke update on agent_messages from public",
];

/// Changes that somebody may have made to agent_registry.
const REGISTRY: &[&str] = &[
    "alter table agent_registry add check (status <> 'online') not valid",
    "alter table agent_registry drop column updated_at;
     alter table agent_registry add updated_at timestamptz generated always as (last_heartbeat) stored",
    "create function r1() returns trigger language plpgsql as $$
       begin if new.agent_id = 'a' then raise exception 'no'; end if; return new; end $$;
     create trigger r1 before update on agent_registry for each row execute function r1()",
    "alter table agent_registry alter offline_reason type varchar(3)",
    "alter table agent_registry add check (environment = 'pc') not valid",
    "create function r2() returns trigger language plpgsql as $$ begin return null; end $$;
     create trigger r2 before update on agent_registry for each row when (new.agent_id = 'a') execute function r2()",
];

const ENDS: &[&str] = &["ack", "dead", "fail"];

async fn one(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut ddl: Vec<&str> = MESSAGES.sample(&mut rng, 1 + (seed % 2) as usize).copied().collect();
    ddl.extend(REGISTRY.choose(&mut rng));
    let ddl = ddl.join(";\n");
    let mut two = Two::after(&ddl).await;
    let holder = two.mesh.db.sql().await;
    for n in 0..8 {
        let tag = two.send_a(&n.to_string()).await["tag"].clone();
        if n == 3 {
            let hold = "begin; select from agent_messages where to_agent_id = 'a' for update";
            holder.batch_execute(hold).await.unwrap();
        }
        match *ENDS.choose(&mut rng).expect("some") {
            "ack" => two.a.say(&format!(r#"{{"op":"ack","tag":{tag}}}"#)).await,
            "dead" => {
                two.a
                    .say(&format!(r#"{{"op":"nack","tag":{tag},"outcome":"dead","reason":"a long reason"}}"#))
                    .await
            }
            // The message comes again, and then it is over.
            _ => {
                let fail = format!(
                    r#"{{"op":"nack","tag":{tag},"outcome":"fail","delay_ms":0,"reason":"a long reason"}}"#
                );
                two.a.say(&fail).await;
                let again =
                    timeout(SERVED, two.a.expect("msg")).await.unwrap_or_else(|_| panic!("{seed}: {ddl}"));
                two.a.say(&format!(r#"{{"op":"ack","tag":{}}}"#, again["tag"])).await;
            }
        }
        if rng.random_bool(0.5) {
            two.u_is_served().await;
        }
    }
    two.u_is_served().await;
    holder.batch_execute("rollback").await.unwrap();
    two.mesh
        .db
        .until("select count(*) = 0 from postbell.deliveries where inbox in ('a', 'u') and state <> 'dead'")
        .await;
    let db = two.nothing_comes_again().await;
    // Each message's status says how it ended, or the message is set aside.
    let lost = "select count(*) from agent_messages m
                where to_agent_id in ('a', 'u') and coalesce(status, 'pending') not in ('processed', 'failed', 'done')
                  and not exists (select from postbell.set_aside s where s.message_id = m.message_id)";
    assert_eq!(db.ask::<i64>(lost).await, 0, "seed {seed}: {ddl}");
}

#[tokio::test]
async fn whatever_the_tables_refuse_the_others_are_served() {
    // POSTBELL_TEST_SEEDS sets how many seeds are tried; a failure names its seed.
    let seeds = std::env::var("POSTBELL_TEST_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    for seed in 0..seeds {
        println!("seed {seed}");
        one(seed).await;
    }
}
