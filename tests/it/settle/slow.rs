//! An inbox whose outcomes take long: those of another are written as ever.

use tokio::time::timeout;

use super::{SERVED, Two};
use crate::mesh::insert;

/// Where somebody's trigger sleeps, at the rows of `a` only.
const SLEEPS: [&str; 2] = [
    "create trigger sleeps before update on agent_messages for each row when (old.to_agent_id = 'a') execute function sleeps()",
    "create trigger sleeps before update or delete on postbell.deliveries for each row when (old.inbox = 'a') execute function sleeps()",
];

#[tokio::test]
async fn once_it_is_known_nobody_elses_status_is_set_aside_with_its_own() {
    for trigger in SLEEPS {
        for seconds in ["0.3", "10"] {
            let ddl = format!(
                "create function sleeps() returns trigger language plpgsql as $$
                 begin
                   if current_setting('postbell.broker', true) = 'on' then perform pg_sleep({seconds}); end if;
                   return case when tg_op = 'DELETE' then old else new end;
                 end $$; {trigger}"
            );
            let mut two = Two::after(&ddl).await;
            let sql = two.mesh.db.sql().await;
            // Four of `a` with one of `u`, again and again.
            for round in 0..5 {
                for _ in 0..4 {
                    let tag = two.send_a("1").await["tag"].clone();
                    two.a.say(&format!(r#"{{"op":"ack","tag":{tag}}}"#)).await;
                }
                timeout(SERVED, two.u_is_served())
                    .await
                    .unwrap_or_else(|_| panic!("u waits: {seconds} {trigger}"));
                if round == 1 {
                    sql.batch_execute("delete from postbell.set_aside where inbox = 'u'")
                        .await
                        .expect("known");
                }
            }
            let of_u = "select count(*) from postbell.set_aside where inbox = 'u'";
            assert_eq!(two.mesh.db.ask::<i64>(of_u).await, 0, "{seconds} {trigger}");
            insert(&sql, "u", 5, "1").await;
            two.u.expect("msg").await;
        }
    }
}
