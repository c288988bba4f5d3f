//! Marks that a row does not take, or takes slowly, hold up no ack.

use super::{SERVED, Two};
use tokio::time::timeout;

/// One message refuses its mark, and one takes it slowly. A sequence counts the tries, since no rollback takes them
/// back.
const ODD_MARKS: &str = "
    create sequence refused; create sequence slow;
    create function odd() returns trigger language plpgsql as $$
    begin
      if new.status = 'delivered' and old.payload = '\"refused\"' then
        perform nextval('refused');
        raise exception 'no';
      end if;
      if new.status = 'delivered' and old.payload = '\"slow\"' then
        perform nextval('slow'), pg_sleep(20);
      end if;
      return new;
    end $$;
    create trigger odd before update on agent_messages for each row execute function odd()";

/// Serves the uninvolved agent until the mark of this message was tried. Returns how often it served.
async fn served_until_tried(two: &mut Two, message: &str) -> i64 {
    for served in 1.. {
        two.u_is_served().await;
        if two.mesh.db.ask::<bool>(&format!("select is_called from {message}")).await {
            return served;
        }
    }
    unreachable!()
}

#[tokio::test]
async fn marks_that_are_refused_or_slow_hold_up_no_ack() {
    let mut two = Two::after(ODD_MARKS).await;
    let mut served = 0;
    let mut tags = Vec::new();
    for message in ["slow", "refused", "slow"] {
        two.mesh
            .db
            .sql()
            .await
            .batch_execute(&format!("alter sequence {message} restart"))
            .await
            .expect("from none");
        tags.push(two.send_a(&format!("\"{message}\"")).await["tag"].clone());
        served += served_until_tried(&mut two, message).await;
        two.u_is_served().await;
        served += 1;
    }
    assert_eq!(two.mesh.metric("postbell_acked_total").await, served as f64);
    let marked = "select coalesce(string_agg(payload::text, ', '), '') from agent_messages
                  where to_agent_id = 'a' and status = 'delivered'";
    assert_eq!(two.mesh.db.ask::<String>(marked).await, "");
    // The messages that were held meanwhile are acknowledged as any other.
    for tag in tags {
        two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"x"}}"#)).await;
        timeout(SERVED, two.a.expect("acked")).await.expect("written");
    }
    two.mesh.until_ready(true).await;
    // A mark that still runs holds its row, so that the row's new status may come later than its ack.
    two.mesh.db.until("select count(*) = 0 from postbell.set_aside").await;
    let written = "select bool_and(status = 'processed') from agent_messages where to_agent_id in ('a', 'u')";
    assert!(two.mesh.db.ask::<bool>(written).await);
    two.nothing_comes_again().await;
}
