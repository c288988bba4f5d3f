//! The answer to a settle is lost after its COMMIT: the written outcomes are counted once all the same.

use postbell::devdb::{Data, DevPostgres, Options};
use postbell::store::migrate::migrate;
use postbell::store::{DatabaseUrl, Target};
use tokio::time::timeout;

use crate::harness::TestDb;
use crate::mesh::{Mesh, PATIENCE, insert, sql_at};

/// A COMMIT of a transaction that wants a standby waits for one that never comes: the transaction is done here, and
/// its answer is not out.
const SETTINGS: [(&str, &str); 2] =
    [("synchronous_standby_names", "nobody"), ("synchronous_commit", "local")];

/// A transaction that changes a delivery of an inbox in `lose` wants a standby.
const LOSE: &str = "create table lose (inbox text primary key);
    create function lose() returns trigger language plpgsql as $$
    begin
      if exists (select from lose l where l.inbox = old.inbox) then
        perform set_config('synchronous_commit', 'on', true);
      end if;
      if tg_op = 'DELETE' then return old; end if;
      return new;
    end $$;
    create trigger lose before update or delete on postbell.deliveries for each row execute function lose()";

/// Ends the one connection whose COMMIT waits.
async fn lose_the_answer(sql: &tokio_postgres::Client) {
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity where wait_event = 'SyncRep'";
    let waiting = async { while sql.query_one(kill, &[]).await.expect("looked").get::<_, i64>(0) == 0 {} };
    timeout(PATIENCE, waiting).await.expect("a COMMIT that waits");
}

#[tokio::test]
async fn an_outcome_whose_answer_was_lost_after_the_commit_is_counted_once() {
    let options = Options {
        data: Data::Temporary,
        bin_dir: std::env::var_os("POSTBELL_TEST_PG").map(Into::into),
        settings: SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        environment: Vec::new(),
    };
    let starting = tokio::task::spawn_blocking(move || DevPostgres::start(options).expect("starts"));
    let server = starting.await.expect("no panic");
    let url = server.url();
    migrate(&Target::new(DatabaseUrl::parse(&url).expect("url"), "public")).await.expect("migrates");
    let mesh = Mesh::on(TestDb::at(url.clone()), &[("POSTBELL_RETRY_BASE_MS", "1")]).await;
    let sql = sql_at(&url).await;
    sql.batch_execute(LOSE).await.expect("a trigger");
    let mut a = mesh.raw("a", 20).await;
    let outcomes = [
        r#"{"op":"ack","tags":TAGS,"ref":"r"}"#,
        r#"{"op":"nack","tag":TAG,"outcome":"dead","reason":"no"}"#,
        r#"{"op":"nack","tag":TAG,"outcome":"fail","delay_ms":0,"reason":"no"}"#,
    ];
    for outcome in outcomes {
        let several = if outcome.contains("TAGS") { 5 } else { 1 };
        let mut tags = Vec::new();
        for n in 0..several {
            insert(&sql, "a", 5, &n.to_string()).await;
            tags.push(a.expect("msg").await["tag"].as_u64().expect("a tag"));
        }
        sql.batch_execute("insert into lose values ('a')").await.expect("to be lost");
        let outcome = outcome.replace("TAGS", &format!("{tags:?}")).replace("TAG", &tags[0].to_string());
        a.say(&outcome).await;
        lose_the_answer(&sql).await;
        sql.batch_execute("delete from lose").await.expect("no more");
        if several > 1 {
            a.expect("acked").await;
        }
    }
    // The failed delivery comes again, and this time the answer to its ack is not lost.
    let again = a.expect("msg").await;
    assert_eq!(again["attempt"], 2);
    a.say(&format!(r#"{{"op":"ack","tag":{},"ref":"s"}}"#, again["tag"])).await;
    a.expect("acked").await;
    mesh.until_metric("postbell_unsettled", |n| n == 0.0).await;
    for (series, count) in [
        ("postbell_acked_total", 6.0),
        ("postbell_dead_total{reason=\"rejected\"}", 1.0),
        ("postbell_failed_total{reason=\"nack\"}", 1.0),
    ] {
        assert_eq!(mesh.metric(series).await, count, "{series}");
    }
    let written = "select string_agg(status || ' ' || n, ', ' order by status)
                   from (select status, count(*) as n from agent_messages group by status) s";
    assert_eq!(mesh.db.ask::<String>(written).await, "failed 1, processed 6");
    mesh.stop().await;
    tokio::task::spawn_blocking(move || server.stop().expect("stops")).await.expect("no panic");
}
