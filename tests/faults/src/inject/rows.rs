//! Rows that the table refuses, that are costly to read, or that somebody holds: each must cost its own message
//! alone.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::time::sleep;
use uuid::Uuid;

use crate::agents::INBOXES;
use crate::episode::Episode;
use crate::postgres::{self, Sql, inbox_name};
use crate::stage::Stage;

/// The sender of messages that the ledger does not know.
pub const POISONER: &str = "poisoner";
/// The poisoned row has to be a dead letter within this.
const DEAD_WAIT: Duration = Duration::from_secs(10);
/// Statuses that were set aside have to be written within this, once nothing refuses them.
const WRITTEN_WAIT: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Refuses the outcomes of every seventh message. They are set aside, and written when the trigger is gone.
const REFUSE: &str = "
    create function faults_refuse() returns trigger language plpgsql as $$
    begin raise exception 'no outcome for message %', old.message_id; end $$;
    create trigger faults_refuse before update on agent_messages for each row
      when (new.status in ('processed', 'failed') and (old.payload ->> 'n')::bigint % 7 = 3)
      execute function faults_refuse()";
const REFUSE_NO_MORE: &str = "drop trigger faults_refuse on agent_messages; drop function faults_refuse()";

/// 74 kB of text: a few bytes for each number in the table, and a gigabyte as text again.
const POISON: &str = "
    insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
    values ($1, $2, 'data', ('[' || rtrim(repeat('1e131071,', 8192), ',') || ']')::jsonb)";
const IS_DEAD: &str = "
    select coalesce(bool_and(d.state = 'dead' and d.last_error is not null), false)
    from postbell.deliveries d join agent_messages m using (message_id)
    where m.from_agent_id = $1";

/// Messages that wait or are with an agent, so that outcomes of these rows come while they are held.
const HOLD: &str = "
    select message_id from agent_messages
    where status in ('pending', 'delivered') and from_agent_id <> $1
    order by created_at desc limit 20 for update";
/// Takes messages as a poller does; a status that the broker has written meanwhile stays.
const TAKE: &str = "
    update agent_messages set status = 'delivered', delivered_at = now()
    where message_id = any ($1) and status = 'pending'";

pub(super) async fn refuse(stage: &Stage, lasting: Duration, episode: &mut Episode) -> anyhow::Result<()> {
    let (sql, _driver) = postgres::connect(stage.server.url()).await?;
    sql.batch_execute(REFUSE).await?;
    sleep(lasting).await;
    sql.batch_execute(REFUSE_NO_MORE).await?;
    episode.ended_ms = stage.ledger.lock().now_ms();
    // An outcome that was refused shortly before the trigger went may be set aside only now.
    sleep(Duration::from_secs(1)).await;
    let count = "select count(*) from postbell.set_aside";
    let refused: i64 = sql.query_one(count, &[]).await?.get(0);
    episode.note = Some(format!("{refused} outcomes set aside"));
    // A broker may be writing one at this moment, so it is tried until none is left.
    let since = Instant::now();
    loop {
        let tried = stage.command(&["aside", "retry", "--all"]).await;
        let left: i64 = sql.query_one(count, &[]).await?.get(0);
        if left == 0 {
            break;
        }
        if since.elapsed() > WRITTEN_WAIT {
            let why = tried.err().map_or_else(String::new, |e| format!(": {e:#}"));
            episode.defect = Some(format!("{left} outcomes are still set aside{why}"));
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

pub(super) async fn poison(stage: &Stage, number: usize, episode: &mut Episode) -> anyhow::Result<()> {
    let (sql, _driver) = postgres::connect(stage.server.url()).await?;
    let inbox = inbox_name((number % usize::from(INBOXES)) as u8);
    sql.execute(POISON, &[&POISONER, &inbox]).await?;
    let since = Instant::now();
    while !sql.query_one(IS_DEAD, &[&POISONER]).await?.get::<_, bool>(0) {
        if since.elapsed() > DEAD_WAIT {
            episode.defect = Some(format!("the row is no dead letter after {} s", DEAD_WAIT.as_secs()));
            break;
        }
        sleep(LOOK_EVERY).await;
    }
    episode.ended_ms = stage.ledger.lock().now_ms();
    episode.note = Some(format!("in {inbox}"));
    Ok(())
}

pub(super) async fn hold(stage: &Stage, lasting: Duration, episode: &mut Episode) -> anyhow::Result<()> {
    let (sql, _driver) = postgres::connect(stage.server.url()).await?;
    let held = take_hold(&sql).await.context("the rows cannot be held")?;
    episode.begun_ms = stage.ledger.lock().now_ms();
    sleep(lasting).await;
    let taken = async {
        sql.execute(TAKE, &[&held]).await?;
        sql.batch_execute("commit").await
    };
    if let Err(e) = taken.await {
        let why = e.as_db_error().map_or_else(|| e.to_string(), |db| db.message().to_owned());
        episode.defect = Some(format!("the poller was refused: {why}"));
    }
    episode.ended_ms = stage.ledger.lock().now_ms();
    episode.note = Some(format!("{} rows", held.len()));
    Ok(())
}

async fn take_hold(sql: &Sql) -> anyhow::Result<Vec<Uuid>> {
    sql.batch_execute("begin").await?;
    let rows = sql.query(HOLD, &[&POISONER]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
