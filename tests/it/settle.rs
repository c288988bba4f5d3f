//! An outcome that the user's tables refuse, or that meets a held row, is set aside by itself; everybody else is
//! served.

mod columns;
mod counted;
mod due;
mod generated;
mod hurt;
mod left_behind;
mod marks;
mod operators;
mod registry;
mod slow;

use std::time::Duration;

use postbell::store::doctor::{Level, examine};
use serde_json::Value;
use tokio::time::timeout;

use crate::harness::{EXISTING_MESH, TestDb, fresh, roles};
use crate::mesh::{Mesh, Raw, insert};

/// An uninvolved agent is served within this.
pub(crate) const SERVED: Duration = Duration::from_secs(5);

const REMEMBER: &str = "
    create temp table views as
      select c.oid, c.oid::regclass::text as name, pg_get_viewdef(c.oid) as text
      from pg_class c where c.relnamespace = 'postbell'::regnamespace and c.relkind = 'v'";
const RESTORE: &str = "
    do $$ declare v record; begin
      for v in select * from views order by oid loop
        if to_regclass(v.name) is null then execute format('create view %s as %s', v.name, v.text); end if;
      end loop;
    end $$";

/// A mesh that lived already, with an agent `a` that a fault concerns and an agent `u` that it does not.
pub(crate) struct Two {
    pub(crate) mesh: Mesh,
    pub(crate) a: Raw,
    pub(crate) u: Raw,
}

impl Two {
    /// Such a mesh after `ddl`, somebody's change to the tables.
    pub(crate) async fn after(ddl: &str) -> Self {
        let db = adopted().await;
        let tokens = [db.agent("a").await, db.agent("u").await];
        // Objects that went with a column are put back by hand: `migrate` would refuse some of these tables.
        let sql = db.sql().await;
        // The fixture's broadcasts are over, so that `ddl` meets only messages of the test.
        let over = "update agent_messages set status = 'processed' where to_agent_id is null";
        sql.batch_execute(over).await.expect("over");
        sql.batch_execute(REMEMBER).await.expect("remembered");
        sql.batch_execute(ddl).await.expect(ddl);
        for back in
            [RESTORE, include_str!("../../triggers/poller.sql"), include_str!("../../triggers/unseen.sql")]
        {
            sql.batch_execute(back).await.expect(back);
        }
        let mesh = Mesh::on(db, &[("POSTBELL_RETRY_BASE_MS", "50")]).await;
        let a = mesh.raw_with("a", &tokens[0], 100).await;
        let u = mesh.raw_with("u", &tokens[1], 100).await;
        Self { mesh, a, u }
    }

    /// Inserts a message to `a` and returns the line that comes.
    pub(crate) async fn send_a(&mut self, payload: &str) -> Value {
        insert(&self.mesh.db.sql().await, "a", 5, payload).await;
        self.a.expect("msg").await
    }

    /// `u` gets a message and has its ack confirmed, in time.
    pub(crate) async fn u_is_served(&mut self) {
        let round = async {
            insert(&self.mesh.db.sql().await, "u", 5, "1").await;
            let tag = self.u.expect("msg").await["tag"].clone();
            self.u.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"u"}}"#)).await;
            self.u.expect("acked").await;
        };
        timeout(SERVED, round).await.expect("u is served");
    }

    /// Stops in order. Nothing is left to be delivered, and nothing is unsettled.
    pub(crate) async fn nothing_comes_again(self) -> TestDb {
        let (db, stopped) = self.mesh.stop().await;
        assert_eq!(stopped.unsettled, 0, "everything was written or set aside");
        let left = "select count(*) from postbell.deliveries where inbox in ('a', 'u') and state <> 'dead'";
        assert_eq!(db.ask::<i64>(left).await, 0, "what was settled would be delivered again");
        db
    }
}

/// The mesh of the fixture, migrated.
pub(crate) async fn adopted() -> TestDb {
    let db = fresh().await;
    roles(&db.client().await, EXISTING_MESH).await;
    postbell::store::migrate::migrate(&db.target()).await.expect("migrates");
    db
}

/// The doctor's warnings about the set aside have these words.
pub(crate) async fn doctor_says(db: &TestDb, words: &[&str]) {
    let checks = examine(&db.target()).await;
    let said: Vec<_> = checks.iter().filter(|c| c.check == "set aside").collect();
    assert!(said.iter().all(|c| c.level == Level::Warn), "{said:?}");
    let said = said.iter().map(|c| c.sentence.as_str()).collect::<Vec<_>>().join("\n");
    for word in words {
        assert!(said.contains(word), "doctor does not say {word}: {said}");
    }
}

const ASIDE_OF: &str =
    "select coalesce(string_agg(kind || ' ' || status, ', ' order by aside_id), '') from postbell.set_aside
                        where dropped_at is null and inbox = ";

#[tokio::test]
async fn a_check_with_other_words_for_status_holds_nobody_up() {
    let mut two = Two::after(
        "alter table agent_messages drop constraint agent_messages_status_check;
         alter table agent_messages add constraint agent_messages_status_check
           check (status in ('pending', 'delivered', 'completed', 'failed')) not valid",
    )
    .await;
    let tag = two.send_a("1").await["tag"].clone();
    two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"x"}}"#)).await;
    two.a.expect("acked").await;
    for _ in 0..3 {
        two.u_is_served().await;
    }
    two.mesh.until_ready(true).await;
    two.mesh.until_metric("postbell_set_aside{kind=\"ack\"}", |n| n == 4.0).await;
    assert_eq!(two.mesh.metric("postbell_acked_total").await, 4.0);
    doctor_says(&two.mesh.db, &["4 outcomes (ack)", "agent_messages_status_check", "postbell aside list"])
        .await;
    assert_eq!(two.mesh.db.ask::<String>(&format!("{ASIDE_OF}'a'")).await, "ack processed");
    let db = two.nothing_comes_again().await;
    // Once the table is mended, the next broker writes them.
    let mend = "alter table agent_messages drop constraint agent_messages_status_check;
                update postbell.set_aside set next_try = now()";
    db.sql().await.batch_execute(mend).await.expect("mended");
    let mesh = Mesh::on(db, &[]).await;
    mesh.db.until("select count(*) = 0 from postbell.set_aside").await;
    let done = "select count(*) from agent_messages where status = 'processed' and to_agent_id in ('a', 'u')";
    assert_eq!(mesh.db.ask::<i64>(done).await, 4);
    mesh.stop().await;
}

#[tokio::test]
async fn a_trigger_that_raises_for_one_message_sets_aside_that_one() {
    let mut two = Two::after(
        "create function refuse() returns trigger language plpgsql as $$
         begin
           if old.payload = '\"poison\"' then raise exception 'secret %', old.payload using errcode = '40001'; end if;
           return new;
         end $$;
         create trigger refuse before update on agent_messages for each row execute function refuse()",
    )
    .await;
    let poison = two.send_a("\"poison\"").await["tag"].clone();
    let good = two.send_a("2").await["tag"].clone();
    two.a.say(&format!(r#"{{"op":"ack","tags":[{poison},{good}],"ref":"x"}}"#)).await;
    two.u_is_served().await;
    two.a.expect("acked").await;
    let written =
        "select count(*) from agent_messages where status = 'processed' and to_agent_id in ('a', 'u')";
    assert_eq!(two.mesh.db.ask::<i64>(written).await, 2);
    doctor_says(&two.mesh.db, &["1 outcomes (ack)", "the trigger refuse of agent_messages", "40001"]).await;
    let reason = two.mesh.db.ask::<String>("select reason from postbell.set_aside").await;
    assert!(!reason.contains("secret") && !reason.contains("poison"), "{reason}");
    two.u_is_served().await;
    two.nothing_comes_again().await;
}

#[tokio::test]
async fn a_reason_that_is_too_long_for_the_column_is_cut_or_left_out() {
    for (ddl, kept) in [
        (
            "alter table agent_messages alter error_message type varchar(255)",
            "select length(error_message) = 255",
        ),
        (
            "alter table agent_messages add check (length(error_message) <= 150)",
            "select length(error_message) = 100",
        ),
        ("alter table agent_messages add check (error_message !~ 'xx')", "select error_message is null"),
    ] {
        let mut two = Two::after(ddl).await;
        let tag = two.send_a("1").await["tag"].clone();
        let reason = "x".repeat(300);
        two.a.say(&format!(r#"{{"op":"nack","tag":{tag},"outcome":"dead","reason":"{reason}"}}"#)).await;
        two.u_is_served().await;
        two.mesh.db.until("select status = 'failed' from agent_messages where to_agent_id = 'a'").await;
        let kept = format!("{kept} from agent_messages where to_agent_id = 'a'");
        assert!(two.mesh.db.ask::<bool>(&kept).await, "{ddl}");
        let whole = "select length(last_error) from postbell.deliveries where inbox = 'a'";
        assert_eq!(two.mesh.db.ask::<i32>(whole).await, 300);
        assert_eq!(two.mesh.db.ask::<i64>("select count(*) from postbell.set_aside").await, 0);
        // An outcome is counted after it is committed.
        two.mesh.until_metric("postbell_dead_total{reason=\"rejected\"}", |n| n == 1.0).await;
        two.nothing_comes_again().await;
    }
}

#[tokio::test]
async fn a_trigger_finds_what_it_names_as_it_does_for_everybody() {
    let ddl = "create schema extensions;
               create function extensions.note() returns void language sql as 'select';
               create function noting() returns trigger language plpgsql as $$ begin perform note(); return null; end $$;
               create trigger noting after update on agent_messages for each row execute function noting()";
    // The search path as Supabase sets it for its roles; and without, so that the trigger fails for everybody.
    for (path, aside) in [("'\"$user\", public, extensions'", 0), ("'\"$user\", public'", 1)] {
        let set = format!(
            "{ddl}; do $$ begin execute format('alter database %I set search_path = %s', current_database(), {}); end $$",
            path.replace('\'', "$p$")
        );
        let mut two = Two::after(&set).await;
        two.u_is_served().await;
        two.u_is_served().await;
        let found = two.mesh.db.ask::<i64>("select count(*) from postbell.set_aside").await;
        assert_eq!(found, 2 * aside, "with the path {path}");
        two.nothing_comes_again().await;
    }
}

#[tokio::test]
async fn generated_columns_are_left_out() {
    let mut two = Two::after(
        "alter table agent_messages drop column status cascade;
         alter table agent_messages add status text generated always as
           (case when processed_at is not null then 'processed' when error_message is not null then 'failed'
                 when delivered_at is not null then 'delivered' else 'pending' end) stored;",
    )
    .await;
    two.u_is_served().await;
    let tag = two.send_a("1").await["tag"].clone();
    two.a.say(&format!(r#"{{"op":"nack","tag":{tag},"outcome":"dead","reason":"no"}}"#)).await;
    two.mesh.db.until("select status = 'failed' from agent_messages where to_agent_id = 'a'").await;
    two.u_is_served().await;
    let said = "select string_agg(distinct status, ',') from agent_messages where to_agent_id = 'u'";
    assert_eq!(two.mesh.db.ask::<String>(said).await, "processed");
    columns::sent_by_agent(&mut two).await;
    columns::doctor_names(&two.mesh.db, "status").await;
    two.nothing_comes_again().await;
}

#[tokio::test]
async fn a_row_that_a_poller_holds_holds_nobody_up_and_the_poller_wins() {
    let mut two = Two::after("").await;
    let tag = two.send_a("1").await["tag"].clone();
    let poller = two.mesh.db.sql().await;
    poller
        .batch_execute("begin; select from agent_messages where to_agent_id = 'a' for update")
        .await
        .expect("held");
    two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"x"}}"#)).await;
    two.u_is_served().await;
    timeout(SERVED, two.a.expect("acked")).await.expect("the ack is settled beside the poller");
    // The poller goes on, and is no deadlock's victim.
    poller
        .batch_execute("update agent_messages set status = 'processed' where to_agent_id = 'a'; commit")
        .await
        .expect("the poller's work");
    two.mesh.db.until("select count(*) = 0 from postbell.set_aside").await;
    // A poller that has begun to write holds the delivery as well.
    let tag = two.send_a("2").await["tag"].clone();
    poller
        .batch_execute("begin; update agent_messages set status = 'processed' where to_agent_id = 'a'")
        .await
        .expect("the poller's second");
    two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"y"}}"#)).await;
    two.u_is_served().await;
    two.u_is_served().await;
    poller.batch_execute("rollback").await.expect("the poller gives up");
    two.a.expect("acked").await;
    two.mesh
        .db
        .until("select bool_and(status = 'processed') from agent_messages where to_agent_id = 'a'")
        .await;
    two.nothing_comes_again().await;
}

#[tokio::test]
async fn a_trigger_that_is_slow_or_keeps_silent_holds_nobody_up() {
    let mut two = Two::after(
        "create function odd() returns trigger language plpgsql as $$
         begin
           if old.payload = '\"slow\"' then perform pg_sleep(20); end if;
           if old.payload = '\"silent\"' then return null; end if;
           return new;
         end $$;
         create trigger odd before update on agent_messages for each row execute function odd()",
    )
    .await;
    for payload in ["\"slow\"", "\"silent\""] {
        let tag = two.send_a(payload).await["tag"].clone();
        two.a.say(&format!(r#"{{"op":"ack","tag":{tag},"ref":"x"}}"#)).await;
        two.u_is_served().await;
        two.a.expect("acked").await;
    }
    two.mesh.db.until("select count(*) = 2 from postbell.set_aside where tries > 1").await;
    let written = "select bool_and(status = 'processed') from agent_messages where to_agent_id = 'u'";
    two.mesh.db.until(written).await;
    two.nothing_comes_again().await;
}

#[tokio::test]
async fn a_constraint_that_is_checked_at_the_commit_is_one_rows() {
    let mut two = Two::after(
        "create function late() returns trigger language plpgsql as $$
         begin if new.payload = '\"late\"' then raise exception 'no'; end if; return null; end $$;
         create constraint trigger late after update on agent_messages deferrable initially deferred
           for each row execute function late()",
    )
    .await;
    let tag = two.send_a("\"late\"").await["tag"].clone();
    two.a.say(&format!(r#"{{"op":"ack","tag":{tag}}}"#)).await;
    two.u_is_served().await;
    two.mesh.db.until("select count(*) = 1 from postbell.set_aside where inbox = 'a'").await;
    two.u_is_served().await;
    assert_eq!(two.mesh.db.ask::<i64>("select count(*) from postbell.set_aside").await, 1);
    two.nothing_comes_again().await;
}

#[tokio::test]
async fn an_outcome_is_counted_when_it_changes_something_and_only_then() {
    let mut two = Two::after("").await;
    let mut tags = Vec::new();
    for payload in ["1", "2", "3"] {
        tags.push(two.send_a(payload).await["tag"].clone());
    }
    // A poller was faster.
    let sql = two.mesh.db.sql().await;
    sql.batch_execute("update agent_messages set status = 'processed' where to_agent_id = 'a'")
        .await
        .expect("polled");
    two.a.say(&format!(r#"{{"op":"nack","tag":{},"outcome":"dead","reason":"no"}}"#, tags[0])).await;
    two.a.say(&format!(r#"{{"op":"nack","tag":{},"outcome":"fail","reason":"no"}}"#, tags[1])).await;
    two.a.say(&format!(r#"{{"op":"ack","tag":{},"ref":"x"}}"#, tags[2])).await;
    two.a.expect("acked").await;
    two.u_is_served().await;
    two.mesh.until_metric("postbell_unsettled", |n| n == 0.0).await;
    assert_eq!(two.mesh.metric("postbell_acked_total").await, 1.0);
    assert_eq!(two.mesh.metric("postbell_dead_total{reason=\"rejected\"}").await, 0.0);
    assert_eq!(two.mesh.metric("postbell_failed_total{reason=\"nack\"}").await, 0.0);
    two.nothing_comes_again().await;
}
