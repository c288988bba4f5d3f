//! A scheduled delivery whose row takes no change when its time has come.

use tokio::time::timeout;

use super::{SERVED, Two};

/// Bodies of somebody's trigger on the deliveries of `a`.
const HURTS: [&str; 4] = [
    "raise 'no'",
    "raise 'no' using errcode = '53100'",
    "perform pg_sleep(10)",
    "perform pg_terminate_backend(pg_backend_pid())",
];

#[tokio::test]
async fn one_that_takes_no_change_is_the_only_one_that_waits() {
    for body in HURTS {
        let mut two = Two::after("").await;
        let sql = two.mesh.db.sql().await;
        let trigger = format!(
            "create function hurts() returns trigger language plpgsql as $$
             begin
               if old.state = 'scheduled' and new.state = 'ready' and old.inbox = 'a' then {body}; end if;
               return new;
             end $$;
             create trigger hurts before update on postbell.deliveries for each row execute function hurts()"
        );
        sql.batch_execute(&trigger).await.expect("a trigger");
        let retry = r#""op":"nack","outcome":"fail","reason":"later","#;
        let tag = two.send_a("1").await["tag"].clone();
        two.a.say(&format!(r#"{{{retry}"tag":{tag}}}"#)).await;
        two.mesh.until_told("deliveries whose time has come take no change").await;
        for n in 0..3 {
            crate::mesh::insert(&sql, "u", 5, "1").await;
            let tag = two.u.expect("msg").await["tag"].clone();
            two.u.say(&format!(r#"{{{retry}"tag":{tag}}}"#)).await;
            let again = timeout(SERVED, two.u.expect("msg")).await;
            let again = again.unwrap_or_else(|_| panic!("u's try {n} waits: {body}"));
            two.u.say(&format!(r#"{{"op":"ack","tag":{},"ref":"u"}}"#, again["tag"])).await;
            two.u.expect("acked").await;
        }
        assert!(two.mesh.until_ready(true).await.contains("take no change"), "{body}");
        two.mesh.stop().await;
    }
}
