//! Carries out a fault and its end.

mod rows;

use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal;
use tokio::time::sleep;

use crate::agents::{INBOXES, inbox_of};
use crate::episode::Episode;
use crate::postgres;
use crate::schedule::{Fault, Link, Net, Planned, letter};
use crate::stage::Stage;

pub use rows::POISONER;

/// Log segments that are asked for while the disk is full: the server then has none to write into.
const SEGMENTS: usize = 8;
const TRY_EVERY: Duration = Duration::from_millis(20);
/// The server has to take connections again within this.
const BACK_WAIT: Duration = Duration::from_secs(60);

/// Carries a fault out to its end. A fault that is not possible here is skipped, with the reason.
///
/// # Errors
/// The broken part cannot be mended, which ends the campaign.
pub async fn inject(stage: &mut Stage, planned: Planned) -> anyhow::Result<Episode> {
    let now_ms = stage.ledger.lock().now_ms();
    let inbox = match planned.fault {
        Fault::KillAgent { process } | Fault::StopAgent { process } => Some(inbox_of(process as u8)),
        _ => None,
    };
    let name = planned.fault.to_string();
    let mut episode = Episode {
        planned,
        name,
        begun_ms: now_ms,
        ended_ms: now_ms,
        inbox,
        skipped: None,
        note: None,
        defect: None,
    };
    let lasting = Duration::from_millis(planned.lasting_ms);
    if let Fault::KillBroker { broker } | Fault::StopBroker { broker } | Fault::RestartBroker { broker } =
        planned.fault
    {
        let (sql, _driver) = postgres::connect(stage.server.url()).await?;
        let owned = postgres::owned(&sql, &letter(broker).to_string()).await?;
        episode.note = Some(format!("owned {owned} of {INBOXES} inboxes"));
        episode.begun_ms = stage.ledger.lock().now_ms();
    }
    let done = match planned.fault {
        Fault::KillBroker { broker } => kill_broker(stage, broker, lasting, &mut episode).await,
        Fault::RestartBroker { broker } => restart_broker(stage, broker, &mut episode).await,
        Fault::StopBroker { broker } => {
            let pause = pause(&stage.brokers[broker].process, lasting).await;
            episode.ended_ms = stage.ledger.lock().now_ms();
            pause
        }
        Fault::StopAgent { process } => {
            let pause = pause(&stage.agents[process], lasting).await;
            episode.ended_ms = stage.ledger.lock().now_ms();
            pause
        }
        Fault::KillAgent { process } => {
            stage.agents[process].kill().await?;
            sleep(lasting).await;
            let started = stage.start_agent(process as u8);
            episode.ended_ms = stage.ledger.lock().now_ms();
            started
        }
        Fault::CrashPostgres => restart_postgres(stage, true, lasting, &mut episode).await,
        Fault::RestartPostgres => restart_postgres(stage, false, lasting, &mut episode).await,
        Fault::Terminate { backend } => {
            let (sql, _driver) = postgres::connect(stage.server.url()).await?;
            let count = postgres::terminate(&sql, backend).await?;
            episode.note = Some(format!("{count} ended"));
            episode.ended_ms = stage.ledger.lock().now_ms();
            Ok(())
        }
        Fault::FillDisk => fill_disk(stage, lasting, &mut episode).await,
        Fault::Failover => fail_over(stage, lasting, &mut episode).await,
        Fault::RefuseRows => rows::refuse(stage, lasting, &mut episode).await,
        Fault::PoisonRow => rows::poison(stage, planned.number, &mut episode).await,
        Fault::HoldRows => rows::hold(stage, lasting, &mut episode).await,
        Fault::Spread => {
            stage.proxy(Link::Agents).inflict(Net::Cut);
            Ok(())
        }
        Fault::Network { link, net } => {
            stage.proxy(link).inflict(net);
            if net != Net::Cut {
                sleep(lasting).await;
            }
            stage.proxy(link).heal();
            episode.ended_ms = stage.ledger.lock().now_ms();
            Ok(())
        }
    };
    done.with_context(|| format!("fault {}: {}", planned.number, episode.name))?;
    Ok(episode)
}

async fn kill_broker(
    stage: &mut Stage,
    broker: usize,
    lasting: Duration,
    episode: &mut Episode,
) -> anyhow::Result<()> {
    stage.brokers[broker].process.kill().await?;
    sleep(lasting).await;
    start_broker(stage, broker, episode).await
}

async fn restart_broker(stage: &mut Stage, broker: usize, episode: &mut Episode) -> anyhow::Result<()> {
    if let Err(e) = stage.brokers[broker].stop().await {
        episode.defect = Some(format!("{e:#}"));
    }
    start_broker(stage, broker, episode).await
}

/// Starts a broker again until it runs, as a platform does.
async fn start_broker(stage: &mut Stage, broker: usize, episode: &mut Episode) -> anyhow::Result<()> {
    stage.brokers[broker].start_again()?;
    while let Err(e) = stage.brokers[broker].until_ready().await {
        episode.defect = Some(format!("{e:#}"));
        stage.brokers[broker].start_again()?;
    }
    episode.ended_ms = stage.ledger.lock().now_ms();
    Ok(())
}

async fn pause(process: &crate::process::Process, lasting: Duration) -> anyhow::Result<()> {
    process.signal(Signal::STOP)?;
    sleep(lasting).await;
    process.signal(Signal::CONT)
}

async fn restart_postgres(
    stage: &mut Stage,
    immediate: bool,
    down: Duration,
    episode: &mut Episode,
) -> anyhow::Result<()> {
    stage.server.shut_down(immediate, &stage.logs).await?;
    sleep(down).await;
    until_back(stage).await?;
    episode.ended_ms = stage.ledger.lock().now_ms();
    Ok(())
}

/// Fills the server's disk. First statements fail, as tables cannot grow; then no log segment is left, and the server
/// crashes as in production. The server starts again by itself if it can, or by its operator's hand once there is room.
async fn fill_disk(stage: &mut Stage, lasting: Duration, episode: &mut Episode) -> anyhow::Result<()> {
    if !stage.server.has_disk() {
        episode.skipped = Some(
            "its data is on no file system in memory, which needs root and a campaign of at most two hours"
                .to_owned(),
        );
        return Ok(());
    }
    let (sql, _driver) = postgres::connect(stage.server.url()).await?;
    stage.server.fill_disk().await?;
    sleep(lasting / 2).await;
    let mut crashed = false;
    for _ in 0..SEGMENTS {
        // The server does not leave an empty segment, so something must be written.
        let write = "select pg_logical_emit_message(false, 'faults', 'x'), pg_switch_wal()";
        crashed |= sql.execute(write, &[]).await.is_err();
    }
    sleep(lasting / 2).await;
    stage.server.free_disk().await?;
    until_back(stage).await?;
    episode.note = Some(if crashed { "the server crashed" } else { "statements failed" }.to_owned());
    episode.ended_ms = stage.ledger.lock().now_ms();
    Ok(())
}

/// Lets a standby take over that has every commit. For a while it answers and takes no writes, then it is the
/// primary.
async fn fail_over(stage: &mut Stage, lasting: Duration, episode: &mut Episode) -> anyhow::Result<()> {
    let standby = match stage.server.stand_by().await {
        Ok(standby) => standby,
        Err(e) => {
            episode.skipped = Some(format!("there is no standby: {e:#}"));
            return Ok(());
        }
    };
    episode.begun_ms = stage.ledger.lock().now_ms();
    stage.server.fail_over(standby, &stage.logs).await?;
    stage.follow_server()?;
    sleep(lasting).await;
    stage.server.promote().await?;
    until_back(stage).await?;
    episode.ended_ms = stage.ledger.lock().now_ms();
    Ok(())
}

/// Waits until the server takes connections and writes. A server that gave up is started again.
async fn until_back(stage: &mut Stage) -> anyhow::Result<()> {
    let back = async {
        loop {
            if stage.server.has_ended() {
                stage.server.start_again(&stage.logs).await?;
            }
            if let Ok((sql, _driver)) = postgres::connect(stage.server.url()).await
                && sql.execute("select pg_logical_emit_message(true, 'faults', 'back')", &[]).await.is_ok()
            {
                return anyhow::Ok(());
            }
            sleep(TRY_EVERY).await;
        }
    };
    tokio::time::timeout(BACK_WAIT, back).await.context("Postgres did not come back")?
}
