//! The server, the way to it, and whether LISTEN works.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

use super::Check;
use crate::store::cell::Cells;
use crate::store::connection::{Connection, Target};
use crate::store::error::StoreError;
use crate::store::listen::round_trip;
use crate::store::migrate::SERVER_VERSION_MIN;
use crate::store::sql::queries;
use crate::store::url::{DatabaseUrl, SslMode};

/// A notification that takes longer than this will not arrive at all.
const LISTEN_WAIT: Duration = Duration::from_secs(5);
/// How many times the server's clock is read; the fastest answer is the most exact.
const CLOCK_ROUNDS: usize = 3;
/// Times that agents send, and times in logs, are wrong by as much as the clocks differ.
const CLOCK_SECONDS_MAX: f64 = 1.0;
/// A share of the notification queue. The queue fills up only behind a session that listens and never ends its
/// transaction.
const QUEUE_USAGE_MAX: f64 = 0.1;

/// Checks the URL itself.
pub(super) fn url(target: &Target) -> Vec<Check> {
    let ignored = target.url.ignored();
    if ignored.is_empty() {
        return Vec::new();
    }
    let names = ignored.join(", ");
    vec![Check::warn("url", format!("the database URL's {names} means nothing to Postbell and is ignored"))]
}

/// TLS, version, writability and the notification queue.
pub(super) async fn server(connection: &Connection, target: &Target) -> Result<Vec<Check>, StoreError> {
    let row = connection.query_one(queries::DOCTOR_SERVER, &[]).await?;
    let mut checks = vec![tls(&target.url, row.cell("has_tls")?, row.cell("tls_version")?)];

    let version: String = row.cell("version")?;
    checks.push(match row.cell::<_, i32>("version_num")? {
        number if number < SERVER_VERSION_MIN => {
            Check::fail("version", format!("Postgres {version} is too old: Postbell needs 13 or newer"))
        }
        _ => Check::ok("version", format!("Postgres {version}")),
    });
    if row.cell("is_replica")? {
        checks
            .push(Check::fail("writable", "this server is a replica: name the primary in the database URL"));
    } else if row.cell("is_read_only")? {
        checks.push(Check::fail("writable", "this database takes no writes: lift its read-only mode"));
    }

    let usage: f64 = row.cell("queue_usage")?;
    let percent = (usage * 100.0).ceil();
    checks.push(match usage > QUEUE_USAGE_MAX {
        true => Check::warn(
            "notify queue",
            format!(
                "the notification queue is {percent} % full, and inserts fail when it is full: some session that \
                 listens has been in a transaction for long (pg_stat_activity, by xact_start): end it"
            ),
        ),
        false => Check::ok("notify queue", format!("{percent} % full")),
    });
    let role: String = row.cell("replication_role")?;
    if role != "origin" {
        checks.push(Check::fail(
            "replication role",
            format!(
                "session_replication_role is {role} for this role, so triggers do not fire and messages are not \
                 delivered: `alter role … reset session_replication_role`"
            ),
        ));
    }
    Ok(checks)
}

fn tls(url: &DatabaseUrl, has_tls: bool, version: Option<String>) -> Check {
    let version = version.unwrap_or_else(|| "TLS".to_owned());
    match (url.ssl_mode(), has_tls) {
        (SslMode::VerifyFull, _) => Check::ok("tls", format!("{version}, issuer and host name verified")),
        (SslMode::VerifyCa, _) => Check::ok("tls", format!("{version}, issuer verified (not the host name)")),
        (_, _) if url.is_loopback() => match has_tls {
            true => Check::ok("tls", format!("{version} on this machine")),
            false => Check::ok("tls", "none, on this machine"),
        },
        (SslMode::Disable, _) => Check::warn(
            "tls",
            "none: passwords and messages cross the network in clear; use sslmode=verify-full, unless the network \
             is private",
        ),
        _ => Check::warn(
            "tls",
            format!(
                "{version}, but nobody checks who answers: use sslmode=verify-full, with \
                 sslrootcert=/path/to/ca.crt where the issuer is private (Supabase: Settings, Database, SSL)"
            ),
        ),
    }
}

/// Makes a LISTEN/NOTIFY round trip and reports how long it took.
pub(super) async fn listens(target: &Target) -> Check {
    match round_trip(target, LISTEN_WAIT).await {
        Ok(took) => {
            // A pooler's answers are those of the server, but common poolers have the word in their host name.
            let way = if target.url.host().contains("pooler") { "a session pooler" } else { "directly" };
            Check::ok(
                "listen",
                format!("a notification came back in {:.1} ms, {way}", took.as_secs_f64() * 1e3),
            )
        }
        Err(error) => Check::fail("listen", error.to_string()),
    }
}

/// The difference between this machine's clock and the server's.
pub(super) async fn clock(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let mut best: Option<(Duration, f64)> = None;
    for _ in 0..CLOCK_ROUNDS {
        let (asked, at) = (Instant::now(), unix_seconds());
        let theirs: f64 = connection.query_one(queries::DOCTOR_CLOCK, &[]).await?.cell("now")?;
        let took = asked.elapsed();
        // The server is taken to have read its clock half way through the round trip.
        let difference = theirs - (at + took.as_secs_f64() / 2.0);
        if best.is_none_or(|(fastest, _)| took < fastest) {
            best = Some((took, difference));
        }
    }
    let Some((took, difference)) = best else { return Ok(Vec::new()) };
    let word = if difference < 0.0 { "behind" } else { "ahead of" };
    let found = format!(
        "the server's clock is {:.3} s {word} this machine's (± {:.3} s)",
        difference.abs(),
        took.as_secs_f64() / 2.0
    );
    Ok(vec![match difference.abs() > CLOCK_SECONDS_MAX {
        true => {
            Check::warn("clock", format!("{found}: let this machine keep time with NTP, or latencies lie"))
        }
        false => Check::ok("clock", found),
    }])
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
