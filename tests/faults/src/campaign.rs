//! A campaign from its beginning to its report.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::agents::PROCESSES;
use crate::checker::balance;
use crate::episode::Episode;
use crate::found;
use crate::inject::inject;
use crate::load::{Load, Noticed};
use crate::measure::{effects, quiet_longest_ms};
use crate::postgres::{self, is_drained};
use crate::report::{Report, Row};
use crate::schedule::{LAST, Planned, QUIET_MIN, letter, outage, plan};
use crate::stage::Stage;
use crate::watch::{Watched, watch};

/// How long after the end of the load every waiting delivery must have ended: far over every promise, retries
/// included.
const DRAIN_WAIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const HOUR_S: f64 = 3_600.0;

/// The campaign to run.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// This crate's program, which is broker and agent too.
    pub program: PathBuf,
    /// The seed of the plan and of all dice.
    pub seed: u64,
    /// How long the load lasts.
    pub lasting: Duration,
    /// Messages a second.
    pub rate: f64,
    /// Only faults whose name contains one of these; all faults if it is empty.
    pub only: Vec<String>,
    /// Instead of the plan, one outage of the database that ends this long before the load does.
    pub outage_ends: Option<Duration>,
    /// Whether the time that deliveries take is judged, and not only reported.
    pub timed: bool,
    /// The folder of the logs.
    pub out: PathBuf,
    /// Called with a line on each fault when the fault is over.
    pub tell: fn(&str),
}

/// Runs a campaign, from its stage to its report.
///
/// # Errors
/// The campaign could not be carried out. A broken promise is no error here; the report names it.
pub async fn run(wanted: &Wanted) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&wanted.out).with_context(|| format!("cannot make {}", wanted.out.display()))?;
    let folder = std::env::temp_dir().join(format!("postbell-faults-{}", std::process::id()));
    let hours = wanted.lasting.as_secs_f64() / HOUR_S;
    let mut stage = Stage::set(&wanted.program, folder, &wanted.out, wanted.seed, hours).await?;
    let (stop, stopped) = watch::channel(false);
    let watchers: Vec<_> = (0..)
        .zip(&stage.brokers)
        .map(|(b, broker)| tokio::spawn(watch(b, broker.http(), stage.ledger.clone(), stopped.clone())))
        .collect();
    let load = Load {
        rate: wanted.rate,
        seed: wanted.seed,
        database_url: stage.producers_url()?,
        brokers_url: stage.agents_url(),
    };
    let (stop_load, load_stopped) = watch::channel(false);
    let load = tokio::spawn(load.run(stage.ledger.clone(), load_stopped));
    let episodes = break_things(&mut stage, wanted).await?;
    // No task can miss this: both ends of the channel are held until the tasks have stopped.
    let _ = stop_load.send(true);
    let noticed = load.await??;
    let drained_in = drain(&stage).await?;
    let _ = stop.send(true);
    let mut watched = Vec::new();
    for watcher in watchers {
        watched.push(watcher.await?);
    }
    stage.end_agents().await;
    let report = draw_up(&stage, wanted, episodes, noticed, watched, drained_in).await?;
    Ok(report.with_end(stage.strike().await))
}

async fn break_things(stage: &mut Stage, wanted: &Wanted) -> anyhow::Result<Vec<Episode>> {
    let began = Instant::now();
    let mut episodes = Vec::new();
    let is_wanted = |planned: &Planned| {
        let name = planned.fault.to_string();
        wanted.only.is_empty() || wanted.only.iter().any(|part| name.contains(part.as_str()))
    };
    let ms = |time: Duration| time.as_millis() as u64;
    let planned = match wanted.outage_ends {
        Some(before_end) => outage(ms(wanted.lasting.saturating_sub(before_end))),
        None => plan(wanted.seed, ms(wanted.lasting), PROCESSES.into()),
    };
    let mut ended_at = Duration::ZERO;
    for planned in planned.into_iter().filter(is_wanted) {
        // A fault that took longer than planned must not push the next ones together: what two faults do at once is
        // judged as the work of each.
        let begins_at = Duration::from_millis(planned.at_ms).max(ended_at + QUIET_MIN);
        if begins_at + Duration::from_millis(planned.lasting_ms) + LAST > wanted.lasting {
            break;
        }
        sleep(begins_at.saturating_sub(began.elapsed())).await;
        let mut episode = inject(stage, planned).await?;
        (wanted.tell)(&format!("{:>7.1} s  {}", began.elapsed().as_secs_f64(), episode.name));
        revive(stage, &mut episode).await?;
        episodes.push(episode);
        ended_at = began.elapsed();
    }
    sleep(wanted.lasting.saturating_sub(began.elapsed())).await;
    Ok(episodes)
}

/// Starts a broker that ended by itself again, as a platform would, and notes a defect: no fault but a kill may end a
/// broker.
async fn revive(stage: &mut Stage, episode: &mut Episode) -> anyhow::Result<()> {
    for (b, broker) in (0..).zip(&mut stage.brokers) {
        if let Some(status) = broker.process.ended() {
            episode.defect = Some(format!("broker {} ended by itself ({status})", letter(b)));
            broker.start_again()?;
            broker.until_ready().await?;
        }
    }
    for process in 0..PROCESSES {
        if let Some(status) = stage.agents[usize::from(process)].ended() {
            episode.defect = Some(format!("agent process {process} ended by itself ({status})"));
            stage.start_agent(process)?;
        }
    }
    Ok(())
}

/// How long it took until no delivery waited; `None` if some still wait.
async fn drain(stage: &Stage) -> anyhow::Result<Option<Duration>> {
    let (sql, _driver) = postgres::connect(stage.server.url()).await?;
    let since = Instant::now();
    while since.elapsed() < DRAIN_WAIT {
        if is_drained(&sql).await? {
            return Ok(Some(since.elapsed()));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(None)
}

async fn draw_up(
    stage: &Stage,
    wanted: &Wanted,
    episodes: Vec<Episode>,
    noticed: Noticed,
    watched: Vec<Watched>,
    drained_in: Option<Duration>,
) -> anyhow::Result<Report> {
    let (sql, _driver) = postgres::connect(stage.server.url()).await?;
    let ledger = std::mem::take(&mut *stage.ledger.lock());
    let found = found::read(&sql, &ledger).await?;
    let balance = balance(&ledger, &found, &episodes);
    let effects = effects(&ledger, &episodes);
    let late: Vec<_> = watched.iter().flat_map(|watched| watched.late.iter().copied()).collect();
    let quiet_longest_ms = quiet_longest_ms(&ledger, &episodes);
    let rows =
        episodes.into_iter().zip(effects).map(|(e, effect)| Row::new(e, effect, &balance, &late)).collect();
    Ok(Report {
        seed: wanted.seed,
        lasting_s: wanted.lasting.as_secs_f64(),
        rate: wanted.rate,
        only: wanted.only.clone(),
        outage: wanted.outage_ends.is_some(),
        timed: wanted.timed,
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        rows,
        balance,
        late,
        quiet_longest_ms,
        strangers: ledger.strangers,
        drained_in_ms: drained_in.map(|took| took.as_millis() as u64),
        longest_send_ms: noticed.longest_send.as_millis() as u64,
        sends_refused: noticed.sends_refused,
        sends_unanswered: noticed.sends_unanswered,
        memory_bytes_max: watched.iter().map(|watched| watched.memory_bytes_max).max().unwrap_or(0),
        end: None,
    })
}
