//! `postbell dev`: a broker with a Postgres of its own.

mod ca;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use prometheus::Registry;

use super::serve::{bind, report, stop_signal};
use super::settings::BrokerArgs;
use super::{Exit, agent, demo, output};
use crate::broker;
use crate::broker::config::{Config, DATABASE_URL, DRAIN, OPERATOR_TOKEN, TLS_CERT, TLS_KEY};
use crate::devdb::{Data, DevPostgres, Options, default_data_dir};
use crate::store::agents::Token;
use crate::store::migrate::migrate;
use crate::store::{Pool, Target};

/// The agent that is registered for a person to try with.
const YOU: &str = "you";
/// The drain: Ctrl-C at a terminal should not take twenty seconds.
const DRAIN_SECONDS: &str = "2";

/// Runs a broker with a Postgres of its own, or on DATABASE_URL where that is set.
///
/// The server is an installed one, or a package that npm or pip brings. The server's data is kept between runs.
/// Everything listens on this machine only, and ends with this command.
#[derive(Args)]
#[command(after_help = "Example: postbell dev --demo")]
pub(super) struct DevArgs {
    /// Start two agents and send messages between them
    #[arg(long, env = "POSTBELL_DEMO")]
    demo: bool,
    /// Forget the data of earlier runs
    #[arg(long, env = "POSTBELL_FRESH")]
    fresh: bool,
    /// Encrypt the agents' port, with a certificate of a CA that is made for this machine and kept with the data
    #[arg(long, env = "POSTBELL_DEV_TLS", conflicts_with = "tls-cert")]
    tls: bool,
    /// Where the data is kept, if not in the user's data folder
    #[arg(long, env = "POSTBELL_DATA_DIR", value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// The folder of the Postgres programs to use, if not searched for
    #[arg(long, env = "POSTBELL_PG_BIN", value_name = "FOLDER")]
    pg_bin: Option<PathBuf>,
    #[command(flatten)]
    broker: BrokerArgs,
}

pub(super) async fn run(args: DevArgs) -> Exit {
    let made = if args.tls { Some(ca::files(&args.folder()?.join("tls"))?) } else { None };
    let (server, url) = database(&args)?;
    // The token of the status page: if none is set, each run makes a new one and prints it.
    let operator = args.broker.value(OPERATOR_TOKEN.env).is_none().then(Token::random);
    let config = Config::parse(|env| match (env, &made) {
        _ if env == DATABASE_URL.env => Some(url.clone()),
        (_, Some(made)) if env == TLS_CERT.env => Some(made.certificate.display().to_string()),
        (_, Some(made)) if env == TLS_KEY.env => Some(made.key.display().to_string()),
        _ if env == OPERATOR_TOKEN.env && operator.is_some() => {
            operator.as_ref().map(|t| t.reveal().to_owned())
        }
        _ if env == DRAIN.env => args.broker.value(env).or_else(|| Some(DRAIN_SECONDS.to_owned())),
        _ => args.broker.value(env),
    })?;
    let ended = serve(&args, &config, &url, made.as_ref().map(|made| &*made.ca), operator.as_ref()).await;
    if let Some(server) = server {
        tokio::task::spawn_blocking(move || server.stop()).await??;
        tracing::info!("the private Postgres has stopped");
    }
    ended
}

impl DevArgs {
    fn folder(&self) -> anyhow::Result<PathBuf> {
        Ok(match &self.data_dir {
            Some(folder) => folder.clone(),
            None => default_data_dir()?,
        })
    }
}

async fn serve(
    args: &DevArgs,
    config: &Config,
    url: &str,
    ca: Option<&Path>,
    operator: Option<&Token>,
) -> Exit {
    let done = migrate(&config.database).await?;
    for step in done.migrations.iter().chain(&done.triggers) {
        tracing::debug!(step, "migrated");
    }
    broker::check(config).await?;
    let (agents_port, http) = bind(config).await?;
    let address = agents_port.local_addr()?.to_string();
    let http_address = http.local_addr()?.to_string();
    let scheme = if config.tls.is_some() { "tcp+tls" } else { "tcp" };
    let by = Connecting { scheme, address: &address, ca, http: &http_address, operator };
    let pool = Pool::new(config.database.clone(), 2);
    let token = agent::token_of(&pool, YOU).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut running = tokio::spawn(broker::run(config.clone(), agents_port, http, Registry::new(), async {
        let _ = stopped.await;
    }));
    let signal = stop_signal()?;
    tokio::pin!(signal);
    let show = async {
        if args.demo {
            demo::run(&pool, &config.database, &format!("{scheme}://{address}"), ca).await?;
        }
        explain(url, &config.database, &by, &token);
        anyhow::Ok(())
    };
    tokio::select! {
        shown = show => shown?,
        () = &mut signal => {}
    }
    tokio::select! {
        ended = &mut running => return ended?.map(report).context("the broker ended by itself"),
        () = &mut signal => {}
    }
    let _ = stop.send(());
    Ok(report(running.await??))
}

/// The database's URL, and the server if this command started it.
fn database(args: &DevArgs) -> anyhow::Result<(Option<DevPostgres>, String)> {
    if let Some(url) = args.broker.value(DATABASE_URL.env).filter(|url| !url.is_empty()) {
        return Ok((None, url));
    }
    let folder = args.folder()?;
    if args.fresh && folder.join("data").exists() {
        remove(&folder)?;
    }
    let options = Options {
        data: Data::Kept(folder),
        bin_dir: args.pg_bin.clone(),
        settings: Vec::new(),
        environment: Vec::new(),
    };
    let server = DevPostgres::start(options)?;
    tracing::info!(version = server.version(), "a private Postgres is up");
    let url = server.url();
    Ok((Some(server), url))
}

/// Removes the database of earlier runs, and nothing else in the folder; fails while a server uses it.
fn remove(folder: &std::path::Path) -> anyhow::Result<()> {
    // A start fails if another process uses the folder. Otherwise the server is stopped again, and the folder is
    // free.
    let pid_file = folder.join("data/postmaster.pid");
    if pid_file.exists() {
        let options = Options {
            data: Data::Kept(folder.to_owned()),
            bin_dir: None,
            settings: Vec::new(),
            environment: Vec::new(),
        };
        DevPostgres::start(options)?.stop()?;
    }
    for name in ["data", "password", "server.log"] {
        let path = folder.join(name);
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        match removed {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(e).with_context(|| format!("{} cannot be removed", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The addresses and secrets that a person needs to connect.
struct Connecting<'a> {
    scheme: &'a str,
    address: &'a str,
    ca: Option<&'a Path>,
    http: &'a str,
    operator: Option<&'a Token>,
}

impl Connecting<'_> {
    /// The variable that an agent needs besides URL, name and token: the CA, if there is one.
    fn environment(&self) -> String {
        self.ca.map_or(String::new(), |ca| format!(" POSTBELL_CA='{}'", ca.display()))
    }

    /// The URL of the status page. A browser sends nothing behind the `#` to a server, so no log shows the token; the
    /// page takes the token out of the address.
    fn page(&self) -> String {
        let token = self.operator.map_or(String::new(), |token| format!("#token={}", token.reveal()));
        format!("http://{}/{token}", self.http)
    }

    fn by_hand(&self) -> String {
        let Self { scheme, address, ca, .. } = self;
        let (host, port) = address.rsplit_once(':').unwrap_or((address, "7440"));
        match ca {
            Some(ca) => format!("openssl s_client -quiet -connect {address} -CAfile '{}'", ca.display()),
            None if *scheme == "tcp" => format!("nc {host} {port}     "),
            None => format!("openssl s_client -quiet -connect {address}"),
        }
    }
}

fn explain(url: &str, target: &Target, by: &Connecting<'_>, token: &Token) {
    let Connecting { scheme, address, http, .. } = by;
    let page = by.page();
    let (environment, by_hand) = (by.environment(), by.by_hand());
    let table = match &*target.schema {
        "public" => "agent_messages".to_owned(),
        schema => format!("{schema}.agent_messages"),
    };
    let token = token.reveal();
    output::lines(&format!(
        r#"
Postbell is up. Try it from another terminal; Ctrl-C here ends everything.

  be an agent       export POSTBELL_URL={scheme}://{address} POSTBELL_AGENT={YOU} POSTBELL_TOKEN={token}{environment}
                    postbell listen
  send by SQL       psql '{url}' -c "insert into {table} (from_agent_id, to_agent_id, message_type, payload)
                      values ('psql', '{YOU}', 'command', '{{\"hello\": \"world\"}}')"
  send by broker    postbell send --to {YOU} --type command --priority 1 '{{"hello": "world"}}'
  by hand           {by_hand} and type, with heartbeats every ten minutes:
                    {{"op":"hello","agent":"{YOU}","token":"{token}","heartbeat_ms":600000}}
                    {{"op":"ack","tag":1}}
  status page       {page}
                    postbell top --url http://{http}   postbell tail --url http://{http}
  metrics, health   http://{http}/metrics   http://{http}/health

  (`postbell` is target/release/postbell, or `cargo run --release --`)"#
    ));
}
