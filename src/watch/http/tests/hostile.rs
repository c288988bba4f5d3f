//! The worst that one address can do to the port. Health and metrics are answered all the same, within a second.

use super::*;

/// More than all places together.
const MANY: usize = 700;
const BOUND: Duration = Duration::from_secs(1);

/// A way to hold a connection without ever ending.
#[derive(Clone, Copy, Debug)]
enum Misuse {
    SaysNothing,
    HalfAHead,
    /// One byte of a head after the other.
    Drips,
    HalfClosed,
    /// A body that never comes.
    SlowBody,
    /// Asks for more than a socket holds and reads none of it.
    ReadsNothing,
    ReadsNoHealth,
    AsksAndLeaves,
}

const ALL: [Misuse; 8] = [
    Misuse::SaysNothing,
    Misuse::HalfAHead,
    Misuse::Drips,
    Misuse::HalfClosed,
    Misuse::SlowBody,
    Misuse::ReadsNothing,
    Misuse::ReadsNoHealth,
    Misuse::AsksAndLeaves,
];

impl Misuse {
    /// Errors do not matter: the port may cut the connection at any moment.
    async fn begin(self, server: &Server) -> Option<TcpStream> {
        let mut stream = server.connect().await;
        let said: &[u8] = match self {
            Self::SaysNothing => b"",
            Self::HalfAHead | Self::HalfClosed => b"GET /metrics HTTP/1.1\r\nhost: te",
            Self::Drips => b"G",
            Self::SlowBody => b"POST /api/dead/purge HTTP/1.1\r\nhost: test\r\ncontent-length: 1000\r\n\r\n",
            Self::ReadsNothing | Self::AsksAndLeaves => b"GET /metrics HTTP/1.1\r\nhost: test\r\n\r\n",
            Self::ReadsNoHealth => b"GET /health HTTP/1.1\r\nhost: test\r\n\r\n",
        };
        let _cut = stream.write_all(said).await;
        match self {
            Self::AsksAndLeaves => return None,
            Self::HalfClosed => {
                let _cut = stream.shutdown().await;
            }
            _ => {}
        }
        Some(stream)
    }
}

async fn server() -> Server {
    Server::start(|state| {
        // Time frees no place; only newcomers do.
        state.limits.header_wait = LONG;
        state.limits.connection_wait = LONG;
    })
    .await
}

async fn answered(server: &Server, misuse: Misuse) {
    for path in ["/health/live", "/health", "/metrics"] {
        let answer = timeout(BOUND, server.get(path)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{misuse:?}: {path} was not answered"));
        let expected = if path == "/health" { "HTTP/1.1 503 " } else { "HTTP/1.1 200 " };
        assert!(answer.starts_with(expected), "{misuse:?}: {path}: {answer}");
    }
}

#[tokio::test]
async fn health_and_metrics_are_answered_whatever_one_address_does() {
    for misuse in ALL {
        let server = server().await;
        // Text that no socket holds.
        let name = "a".repeat(5_000);
        let agents = (0..AGENTS_MAX).map(|i| (format!("{name}{i}"), "pc", true));
        if matches!(misuse, Misuse::ReadsNothing) {
            server.metrics.set_agents(agents).expect("agents");
        }
        // Each answer is made whole, so twice the bound on scrapes is enough.
        let many = if matches!(misuse, Misuse::ReadsNothing) { SCRAPES_MAX * 2 } else { MANY };
        let mut held = Vec::new();
        for _ in 0..many {
            held.push(misuse.begin(&server).await);
        }
        answered(&server, misuse).await;
    }
}

#[tokio::test]
async fn all_kinds_at_once_and_again_and_again() {
    let server = server().await;
    let mut held = Vec::new();
    for round in 0..3 {
        for n in 0..MANY {
            let misuse = ALL[(n * 7 + round) % ALL.len()];
            held.push(misuse.begin(&server).await);
        }
        answered(&server, Misuse::Drips).await;
    }
}
