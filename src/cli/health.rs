//! `postbell health`: whether the broker on this machine is ready, for a container that has neither shell nor curl.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::settings::HttpArgs;
use super::{Exit, output};

/// The longest answer that is read; the broker's is a few hundred bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Ask the broker on this machine whether it is ready
///
/// Takes the address from the settings of `serve` (POSTBELL_HTTP, or PORT), so that it finds the broker that runs in the
/// same container. Prints each condition, and what to do about one that does not hold.
#[derive(clap::Args)]
#[command(after_help = "Exit status: 0 ready; 1 it is not, or nobody answers; 64 wrong usage.

Example, in a Dockerfile:
  HEALTHCHECK CMD [\"/postbell\", \"health\"]")]
pub(super) struct HealthArgs {
    #[command(flatten)]
    http: HttpArgs,
    /// Ask only whether the broker lives: one that waits for its database does
    #[arg(long, env = "POSTBELL_LIVE")]
    live: bool,
    /// How long the answer may take
    #[arg(long, env = "POSTBELL_HEALTH_WITHIN", default_value = "3s", value_parser = humantime::parse_duration)]
    within: Duration,
}

/// The answer of `/health/ready`.
#[derive(Deserialize)]
struct Readiness {
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    name: String,
    ok: bool,
    message: String,
}

pub(super) async fn run(args: HealthArgs) -> Exit {
    let address = crate::broker::config::http(|env| args.http.value(env))?;
    let path = if args.live { "/health/live" } else { "/health/ready" };
    let Ok(answer) = timeout(args.within, ask(address, path)).await else {
        bail!("{address} did not answer within {}", humantime::format_duration(args.within));
    };
    let answer =
        answer.with_context(|| format!("no broker answers at {address} (POSTBELL_HTTP, or PORT)"))?;
    let Some((status, body)) = parse(&answer) else {
        bail!("what answers at {address} does not speak HTTP: is it the agents' port?");
    };
    match serde_json::from_str::<Readiness>(body) {
        Ok(readiness) => readiness.conditions.iter().for_each(|c| output::line(&line(c))),
        Err(_) => output::line(body.trim()),
    }
    Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn line(condition: &Condition) -> String {
    let mark = if condition.ok { "✓" } else { "✗" };
    format!("{mark} {:<10} {}", condition.name, condition.message)
}

/// Sends a GET and reads the whole answer. HTTP/1.1, since the status page takes an older version for a proxy's.
pub(super) async fn ask(address: SocketAddr, path: &str) -> std::io::Result<Vec<u8>> {
    let mut socket = TcpStream::connect(&reachable(address)[..]).await?;
    socket
        .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").as_bytes())
        .await?;
    let mut answer = Vec::new();
    socket.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// The addresses at which a broker that listens at `address` answers on its own machine. An unspecified address is
/// served on the loopback of both IP versions, and a container may have only one of the two.
fn reachable(address: SocketAddr) -> Vec<SocketAddr> {
    let at = |ip: IpAddr| SocketAddr::new(ip, address.port());
    match address.ip() {
        ip if ip.is_unspecified() => vec![at(Ipv4Addr::LOCALHOST.into()), at(Ipv6Addr::LOCALHOST.into())],
        _ => vec![address],
    }
}

/// The status and the body of an answer, if it is one.
pub(super) fn parse(answer: &[u8]) -> Option<(u16, &str)> {
    let (head, body) = std::str::from_utf8(answer).ok()?.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some((status, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_anything_else_is_none() {
        assert_eq!(parse(b"HTTP/1.0 200 OK\r\na: b\r\n\r\nok\n"), Some((200, "ok\n")));
        assert_eq!(parse(b"HTTP/1.1 503 Service Unavailable\r\n\r\n"), Some((503, "")));
        for other in
            [&b"{\"op\":\"error\"}\n"[..], b"HTTP/1.0 200 OK", b"HTTP/1.0\r\n\r\n", b"\xff\r\n\r\n", b""]
        {
            assert_eq!(parse(other), None);
        }
    }

    #[test]
    fn every_address_is_asked_on_the_loopback() {
        let of = |text: &str| reachable(text.parse().expect("an address"));
        assert_eq!(of("[::]:80"), [of("127.0.0.1:80"), of("[::1]:80")].concat());
        assert_eq!(of("0.0.0.0:80"), of("[::]:80"));
        assert_eq!(of("10.0.0.1:80").len(), 1);
    }
}
