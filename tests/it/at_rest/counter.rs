//! A proxy before Postgres that counts the statements of all connections: what is executed, and the parts of simple queries, BEGIN and
//! COMMIT among them. Whatever the server counts, it cannot count more.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use faults::proxy::address_of;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::TestDb;

/// A startup message of this code is the last one without a type.
const PROTOCOL_3: i32 = 196_608;
/// As much of a statement names it.
const NAME_CHARS: usize = 60;

type Counts = BTreeMap<String, u64>;

/// The statements so far, each by the beginning of its text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<Mutex<Counts>>);

impl Counter {
    /// The same database, counted.
    pub(crate) async fn before(db: &TestDb) -> (Self, TestDb) {
        let server = address_of(&db.url()).expect("host and port");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let here = listener.local_addr().expect("bound");
        let counter = Self::default();
        tokio::spawn(counter.clone().accept(listener, server));
        (counter, TestDb::at(db.url().replacen(&server.to_string(), &here.to_string(), 1)))
    }

    pub(crate) fn counts(&self) -> Counts {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often statements that begin so were executed.
    pub(crate) fn of(&self, beginning: &str) -> u64 {
        self.counts().iter().filter(|(name, _)| name.starts_with(beginning)).map(|(_, n)| n).sum()
    }

    fn add(&self, statement: &str) {
        let text = statement.trim_start_matches(['-', ' ', '\n']);
        let name: String = text.lines().next().unwrap_or_default().chars().take(NAME_CHARS).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }

    async fn accept(self, listener: TcpListener, server: SocketAddr) {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(server).await else { continue };
            let ((from_client, mut to_client), (mut from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
            let counter = self.clone();
            // An end of either side ends both.
            tokio::spawn(async move { counter.pass(from_client, to_server).await });
        }
    }

    /// Passes whole messages on, and counts those that execute something.
    async fn pass(&self, mut client: OwnedReadHalf, mut server: OwnedWriteHalf) -> std::io::Result<()> {
        let (mut is_typed, mut statements, mut portals) = (false, HashMap::new(), HashMap::new());
        loop {
            let kind = if is_typed { client.read_u8().await? } else { 0 };
            let length = client.read_i32().await?;
            let mut body = vec![0; usize::try_from(length).expect("positive") - 4];
            client.read_exact(&mut body).await?;
            let texts: Vec<String> = body
                .split(|byte| *byte == 0)
                .take(2)
                .map(|text| String::from_utf8_lossy(text).into())
                .collect();
            let text = |n: usize| texts.get(n).cloned().unwrap_or_default();
            match kind {
                0 => is_typed = body.starts_with(&PROTOCOL_3.to_be_bytes()),
                b'P' => _ = statements.insert(text(0), text(1)),
                b'B' => _ = portals.insert(text(0), text(1)),
                b'E' => {
                    self.add(portals.get(&text(0)).and_then(|name| statements.get(name)).map_or("?", |s| s))
                }
                b'Q' => parts(&text(0)).for_each(|part| self.add(part)),
                _ => {}
            }
            if kind != 0 {
                server.write_u8(kind).await?;
            }
            server.write_i32(length).await?;
            server.write_all(&body).await?;
        }
    }
}

/// The statements of a simple query.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(';')
        .map(str::trim)
        .filter(|part| part.lines().any(|line| !line.trim_start().starts_with("--")))
}
