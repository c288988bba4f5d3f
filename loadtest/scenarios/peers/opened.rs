//! A contestant at work: its server or database, its queue, its producers.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::future::try_join_all;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio_postgres::Statement;

use super::contestants::{AGENT, Contestant, POSTBELL, QueueKind, Statements};
use super::install::{PeerPackages, answer};
use super::jetstream::{JetStream, NatsClient};
use crate::agents::{TOKEN, register};
use crate::alone;
use crate::bench::Bench;
use crate::broker::Broker;
use crate::load::{Produce, payload};
use crate::stage::{Database, Sql};

/// The size of each message.
pub(super) const PAYLOAD_BYTES: usize = 200;
const FILL_AT_ONCE: usize = 1_000;
/// Far longer than the last acknowledgements need.
const SETTLED_WAIT: Duration = Duration::from_secs(60);

/// A contestant at work.
pub(super) struct Opened {
    within: Within,
    /// The variables that the process which takes its messages needs.
    variables: HashMap<&'static str, String>,
}

enum Within {
    Postgres { database: Database, broker: Option<Broker>, statements: &'static Statements, said: Value },
    JetStream(JetStream),
}

impl Opened {
    /// Makes a queue that nobody has used: in a database of its own, or on a server of its own.
    ///
    /// # Errors
    /// The peer does not run on this machine.
    pub(super) async fn open(
        bench: &Bench<'_>,
        with: &PeerPackages,
        contestant: Contestant,
    ) -> anyhow::Result<Self> {
        match contestant.kind {
            QueueKind::Postbell => Self::postbell(bench).await,
            QueueKind::InPostgres(statements) => Self::in_postgres(bench, with, contestant, statements).await,
            QueueKind::JetStream { is_synced } => Self::jetstream(with, contestant, is_synced).await,
        }
    }

    async fn postbell(bench: &Bench<'_>) -> anyhow::Result<Self> {
        let database = bench.stage.database().await?;
        let begun = async {
            register(&database.sql().await?, "agent", 1).await?;
            bench.stage.broker(&database).await
        };
        let broker = match begun.await {
            Ok(broker) => broker,
            Err(e) => return Err(gone(database, e).await),
        };
        let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../clients/python");
        let variables = HashMap::from([
            (alone::URL, broker.url.clone()),
            (alone::AGENT, AGENT.to_owned()),
            ("POSTBELL_TOKEN", TOKEN.to_owned()),
            ("POSTBELL_LIBRARY", library.display().to_string()),
        ]);
        let within =
            Within::Postgres { database, broker: Some(broker), statements: &POSTBELL, said: Value::Null };
        Ok(Self { within, variables })
    }

    async fn in_postgres(
        bench: &Bench<'_>,
        with: &PeerPackages,
        contestant: Contestant,
        statements: &'static Statements,
    ) -> anyhow::Result<Self> {
        let database = bench.stage.empty_database().await?;
        let mut variables = HashMap::from([("DATABASE_URL", database.url().to_owned())]);
        variables.extend(contestant.choice.map(|(name, value)| (name, value.to_owned())));
        match setup(with, contestant, &variables).await {
            Ok(said) => {
                Ok(Self { within: Within::Postgres { database, broker: None, statements, said }, variables })
            }
            Err(e) => Err(gone(database, e).await),
        }
    }

    async fn jetstream(with: &PeerPackages, contestant: Contestant, is_synced: bool) -> anyhow::Result<Self> {
        let server = JetStream::start(&mut with.program("nats-server", Path::new(".")), is_synced).await?;
        let variables = HashMap::from([("NATS_ADDRESS", server.address().to_string())]);
        setup(with, contestant, &variables).await?;
        Ok(Self { within: Within::JetStream(server), variables })
    }

    /// The process that takes its messages.
    pub(super) fn taker(&self, with: &PeerPackages, contestant: Contestant) -> anyhow::Result<Command> {
        let mut command = match contestant.folder {
            Some(folder) => with.taker(folder),
            None => Command::new(std::env::current_exe()?),
        };
        command.arg(if contestant.folder.is_some() { "take" } else { alone::AGENT_COMMAND });
        command.envs(&self.variables);
        Ok(command)
    }

    /// Connects producers.
    ///
    /// # Errors
    /// The server refuses one.
    pub(super) async fn producers(&self, n: usize) -> anyhow::Result<Vec<PeerProducer>> {
        match &self.within {
            Within::Postgres { database, statements, said, .. } => {
                try_join_all((0..n).map(|_| PeerProducer::sql(database, statements, said))).await
            }
            Within::JetStream(server) => {
                let connect =
                    |i| async move { NatsClient::connect(server.address(), &format!("p{i}")).await };
                let clients = try_join_all((0..n).map(connect)).await?;
                Ok(clients.into_iter().map(|client| PeerProducer::JetStream(Mutex::new(client))).collect())
            }
        }
    }

    /// Writes the messages 0 to `n`, many at once.
    ///
    /// # Errors
    /// The server refuses.
    pub(super) async fn fill(&self, n: usize) -> anyhow::Result<()> {
        let firsts = (0..n).step_by(FILL_AT_ONCE);
        let payloads = |first: usize| {
            (first..(first + FILL_AT_ONCE).min(n)).map(|n| payload(n, PAYLOAD_BYTES)).collect::<Vec<_>>()
        };
        match &self.within {
            Within::Postgres { database, statements, said, .. } => {
                let sql = database.sql().await?;
                let fill = statements.fill(said).context("`setup` told no statement")?;
                let fill = sql.prepare(&fill).await?;
                for first in firsts {
                    sql.execute(&fill, &[&statements.many(payloads(first).into_iter())]).await?;
                }
            }
            Within::JetStream(server) => {
                let mut client = NatsClient::connect(server.address(), "fill").await?;
                for first in firsts {
                    client.publish_many(&payloads(first)).await?;
                }
            }
        }
        Ok(())
    }

    /// Waits until every message is delivered, acknowledged and settled.
    ///
    /// # Errors
    /// One never is, or the server does not answer.
    pub(super) async fn wait_until_settled(&self) -> anyhow::Result<()> {
        let since = Instant::now();
        let sql = match &self.within {
            Within::Postgres { database, .. } => Some(database.sql().await?),
            Within::JetStream(_) => None,
        };
        while !self.is_settled(sql.as_ref()).await? {
            ensure!(since.elapsed() < SETTLED_WAIT, "some messages were not settled in time");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    async fn is_settled(&self, sql: Option<&Sql>) -> anyhow::Result<bool> {
        match (&self.within, sql) {
            (Within::Postgres { statements, .. }, Some(sql)) => {
                Ok(!sql.query_one(statements.unsettled, &[]).await?.get::<_, bool>(0))
            }
            (Within::JetStream(server), _) => server.is_settled().await,
            (Within::Postgres { .. }, None) => bail!("no connection"),
        }
    }

    /// Removes what the steps before left behind, so that the next one does not pay for it.
    ///
    /// # Errors
    /// The server refuses.
    pub(super) async fn tidy(&self) -> anyhow::Result<()> {
        if let Within::Postgres { database, .. } = &self.within {
            tidy(&database.sql().await?).await?;
        }
        Ok(())
    }

    /// Ends all that was begun.
    ///
    /// # Errors
    /// Something does not end.
    pub(super) async fn close(self) -> anyhow::Result<()> {
        match self.within {
            Within::Postgres { database, broker, .. } => {
                let stopped = match broker {
                    Some(broker) => broker.stop().await.map(|_| ()),
                    None => Ok(()),
                };
                database.remove().await?;
                stopped
            }
            Within::JetStream(server) => server.stop().await,
        }
    }
}

/// Cleans a database's tables and writes its pages.
///
/// # Errors
/// The server refuses.
pub(super) async fn tidy(sql: &Sql) -> anyhow::Result<()> {
    sql.batch_execute("vacuum analyze").await?;
    // Not every role may ask for a checkpoint.
    let _ = sql.batch_execute("checkpoint").await;
    Ok(())
}

/// Has a peer make its queue.
async fn setup(
    with: &PeerPackages,
    contestant: Contestant,
    variables: &HashMap<&'static str, String>,
) -> anyhow::Result<Value> {
    let folder = contestant.folder.context("no folder")?;
    let said = answer(with.taker(folder).arg("setup").envs(variables)).await?;
    serde_json::from_str(&said).with_context(|| format!("`setup` said {said:?}"))
}

/// Removes a database after a failure, which stays the one to tell.
async fn gone(database: Database, failure: anyhow::Error) -> anyhow::Error {
    let _ = database.remove().await;
    failure
}

/// A producer of one of them.
pub(super) enum PeerProducer {
    Sql { sql: Sql, insert: Statement, statements: &'static Statements },
    JetStream(Mutex<NatsClient>),
}

impl PeerProducer {
    /// Connects one that inserts by SQL.
    ///
    /// # Errors
    /// The server refuses.
    pub(super) async fn sql(
        database: &Database,
        statements: &'static Statements,
        said: &Value,
    ) -> anyhow::Result<Self> {
        let sql = database.sql().await?;
        let insert = statements.insert(said).context("`setup` told no statement")?;
        let insert = sql.prepare(&insert).await?;
        Ok(Self::Sql { sql, insert, statements })
    }
}

impl Produce for PeerProducer {
    async fn produce(&self, n: usize, _to: &str) -> anyhow::Result<()> {
        let payload = payload(n, PAYLOAD_BYTES);
        match self {
            Self::Sql { sql, insert, statements } => {
                sql.execute(insert, &[&statements.one(payload)]).await?;
                Ok(())
            }
            Self::JetStream(client) => client.lock().await.publish(&payload).await,
        }
    }
}
