//! Everything that runs: the server, the brokers, the agents, and a proxy on each link between them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{bail, ensure};
use postbell::devdb::KeptPort;
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::agent::TOKEN;
use crate::agents::{self, INBOXES, PROCESSES};
use crate::broker::{self, Broker};
use crate::load::SharedLedger;
use crate::postgres::{self, Server};
use crate::process::Process;
use crate::proxy::{Proxy, address_of};
use crate::schedule::{BROKERS, Link};
use crate::watch;

/// The stage of a campaign.
pub struct Stage {
    /// The database, which faults stop and fill.
    pub server: Server,
    /// The brokers, which faults stop and kill.
    pub brokers: Vec<Broker>,
    /// The agents' processes.
    pub agents: Vec<Process>,
    /// The ledger, which agents and producers write.
    pub ledger: SharedLedger,
    /// The folder of the logs.
    pub logs: PathBuf,
    agents_setup: agents::Setup,
    /// A task for each agent process that was ever started.
    ears: JoinSet<()>,
    /// Checks which brokers are ready, until the stage ends.
    _checker: JoinSet<()>,
    links: Links,
    /// The brokers', kept while they are down.
    _ports: Vec<KeptPort>,
}

struct Links {
    agents: Proxy,
    producers: Proxy,
    database: Vec<Proxy>,
    peer: Vec<Proxy>,
}

impl Stage {
    /// Sets the stage and waits until both brokers are ready. `program` is this crate's. `folder` is made for the
    /// data, and removed at the end.
    ///
    /// # Errors
    /// A sentence that says what failed.
    pub async fn set(
        program: &Path,
        folder: PathBuf,
        logs: &Path,
        seed: u64,
        hours: f64,
    ) -> anyhow::Result<Self> {
        let server = Server::start(folder, hours).await?;
        migrate(program, server.url()).await?;
        let (sql, _driver) = postgres::connect(server.url()).await?;
        postgres::register(&sql, INBOXES, TOKEN).await?;
        let ports = (0..2 * BROKERS).map(|_| KeptPort::take()).collect::<Result<Vec<_>, _>>()?;
        let addresses: Vec<_> = ports.iter().map(KeptPort::address).collect();
        let (listening, http) = addresses.split_at(BROKERS);
        let links = Links::start(address_of(server.url())?, listening, seed).await?;
        let agents_setup = agents::Setup {
            program: program.to_owned(),
            url: format!("tcp://{}", links.agents.address),
            logs: logs.to_owned(),
        };
        let mut brokers = Vec::new();
        for b in 0..BROKERS {
            let setup = broker::Setup {
                program: program.to_owned(),
                database_url: links.database[b].through(server.url())?,
                agents: listening[b],
                http: http[b],
                advertise: links.peer[b].address,
                logs: logs.to_owned(),
            };
            let mut broker = Broker::start(b, setup)?;
            broker.until_ready().await?;
            brokers.push(broker);
        }
        let mut checker = JoinSet::new();
        checker.spawn(watch::check(http.to_vec(), links.agents.up.clone()));
        let ledger = SharedLedger::default();
        let mut ears = JoinSet::new();
        let start = |p| agents::start(&agents_setup, p, &ledger, &mut ears);
        let agents = (0..PROCESSES).map(start).collect::<anyhow::Result<_>>()?;
        let logs = logs.to_owned();
        Ok(Self {
            server,
            brokers,
            agents,
            agents_setup,
            ears,
            _checker: checker,
            ledger,
            logs,
            links,
            _ports: ports,
        })
    }

    /// The proxy on a link.
    pub fn proxy(&self, link: Link) -> &Proxy {
        match link {
            Link::Agents => &self.links.agents,
            Link::Producers => &self.links.producers,
            Link::Database(b) => &self.links.database[b],
            Link::Peer(b) => &self.links.peer[b],
        }
    }

    /// Leads every link to the database to the server's present address.
    ///
    /// # Errors
    /// The server's URL has no address.
    pub fn follow_server(&self) -> anyhow::Result<()> {
        let address = address_of(self.server.url())?;
        for proxy in self.links.database.iter().chain([&self.links.producers]) {
            proxy.lead_to(vec![address]);
        }
        Ok(())
    }

    /// Runs a command of `postbell` on the database, and returns what it printed.
    ///
    /// # Errors
    /// The command failed.
    pub async fn command(&self, args: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.agents_setup.program);
        command.arg(broker::COMMAND).args(args).env_clear().env("DATABASE_URL", self.server.url());
        let ended = command.output().await?;
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        ensure!(ended.status.success(), "`postbell {}` failed: {}", args.join(" "), said(&ended.stderr));
        Ok(said(&ended.stdout))
    }

    /// The database's URL through the producers' proxy.
    ///
    /// # Errors
    /// The server's URL has no address.
    pub fn producers_url(&self) -> anyhow::Result<String> {
        Ok(format!("{}?application_name=producer", self.links.producers.through(self.server.url())?))
    }

    /// The brokers' URL through the agents' proxy.
    pub fn agents_url(&self) -> String {
        self.agents_setup.url.clone()
    }

    /// Starts an agent process again.
    ///
    /// # Errors
    /// The program cannot be run.
    pub fn start_agent(&mut self, process: u8) -> anyhow::Result<()> {
        self.agents[usize::from(process)] =
            agents::start(&self.agents_setup, process, &self.ledger, &mut self.ears)?;
        Ok(())
    }

    /// Ends the agents. When this returns, all their lines are in the ledger.
    pub async fn end_agents(&mut self) {
        for agent in &mut self.agents {
            // An agent that is dead already is as good.
            let _ = agent.kill().await;
        }
        while self.ears.join_next().await.is_some() {}
    }

    /// Ends everything and removes the data.
    ///
    /// # Errors
    /// A broker or the server did not end as it should, which is a defect. Everything else is ended all the same.
    pub async fn strike(mut self) -> anyhow::Result<()> {
        self.end_agents().await;
        let mut stopped = Ok(());
        for broker in &mut self.brokers {
            stopped = stopped.and(broker.stop().await);
        }
        drop(self.brokers);
        self.server.remove(&self.logs).await?;
        stopped
    }
}

impl Links {
    async fn start(database: SocketAddr, brokers: &[SocketAddr], seed: u64) -> anyhow::Result<Self> {
        let mut links = Self {
            agents: Proxy::start(brokers.to_vec(), seed).await?,
            producers: Proxy::start(vec![database], seed).await?,
            database: Vec::new(),
            peer: Vec::new(),
        };
        for broker in brokers {
            links.database.push(Proxy::start(vec![database], seed).await?);
            links.peer.push(Proxy::start(vec![*broker], seed).await?);
        }
        Ok(links)
    }
}

async fn migrate(program: &Path, url: &str) -> anyhow::Result<()> {
    let mut command = Command::new(program);
    let migrated =
        command.args([broker::COMMAND, "migrate"]).env_clear().env("DATABASE_URL", url).output().await?;
    if !migrated.status.success() {
        bail!("`postbell migrate` failed: {}", String::from_utf8_lossy(&migrated.stderr).trim());
    }
    Ok(())
}
