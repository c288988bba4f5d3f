//! `postbell send`: messages through the broker, each acknowledged after COMMIT.

use std::collections::VecDeque;
use std::io::{BufRead, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Exit, output};
use crate::broker::config::ConfigError;
use postbell_client::message::{MessageType, Priority};
use postbell_client::{Builder, Client, Outgoing, Receipt};

/// At most so many lines wait for their COMMIT at once; the broker inserts them together.
const AT_ONCE: usize = 256;

/// Where the broker is and who we are.
#[derive(clap::Args)]
pub(super) struct ConnectArgs {
    /// The broker's agents' port; tcp+tls:// encrypts and verifies it
    #[arg(long, env = "POSTBELL_URL", default_value = "tcp://127.0.0.1:7440")]
    pub(super) url: String,
    /// The agent we are
    #[arg(long, env = "POSTBELL_AGENT")]
    pub(super) agent: String,
    /// The file that holds its token, if POSTBELL_TOKEN does not: on the command line everybody could see it
    #[arg(long, env = "POSTBELL_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The CA that must have issued the broker's certificate, a PEM file or its text; else the system's trusted ones
    #[arg(long, env = "POSTBELL_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The SHA-256 fingerprint that the broker's certificate must have; enough without a CA
    #[arg(long, env = "POSTBELL_PIN", value_name = "HEX")]
    pin: Option<String>,
    /// Our certificate, a PEM file or its text, where the broker asks for one
    #[arg(long, env = "POSTBELL_CLIENT_CERT", value_name = "FILE", requires = "client_key")]
    client_cert: Option<PathBuf>,
    /// The key of that certificate, a PEM file or its text
    #[arg(
        long,
        env = "POSTBELL_CLIENT_KEY",
        hide_env_values = true,
        value_name = "FILE",
        requires = "client_cert"
    )]
    client_key: Option<PathBuf>,
}

impl ConnectArgs {
    pub(super) fn builder(&self) -> anyhow::Result<Builder> {
        let mut builder = Builder::new(&self.url, &self.agent, &self.token()?);
        if let Some(ca) = &self.ca {
            builder = builder.ca_file(ca);
        }
        if let Some(pin) = &self.pin {
            builder = builder.pin_sha256(pin);
        }
        if let (Some(certificate), Some(key)) = (&self.client_cert, &self.client_key) {
            builder = builder.client_certificate(certificate, key);
        }
        Ok(builder)
    }

    fn token(&self) -> anyhow::Result<String> {
        let token = match &self.token_file {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("the token's file {} cannot be read", path.display()))?,
            None => std::env::var("POSTBELL_TOKEN").unwrap_or_default(),
        };
        match token.trim() {
            "" => Err(ConfigError::new(format!(
                "there is no token for {0}: set POSTBELL_TOKEN, or name a file by --token-file; \
                 `postbell agent add {0}` makes one",
                self.agent
            ))
            .into()),
            token => Ok(token.to_owned()),
        }
    }
}

/// The recipients: exactly one of these.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Address {
    /// The agent it is for; '*' is every registered agent but the sender
    #[arg(long, env = "POSTBELL_TO")]
    to: Option<String>,
    /// Every agent that subscribed to this topic
    #[arg(long, env = "POSTBELL_TOPIC")]
    topic: Option<String>,
    /// Every agent of this environment but the sender
    #[arg(long, env = "POSTBELL_TO_ENVIRONMENT", value_name = "ENVIRONMENT")]
    to_environment: Option<String>,
    /// One of the agents that take from this group
    #[arg(long, env = "POSTBELL_TO_GROUP", value_name = "GROUP")]
    to_group: Option<String>,
}

/// Sends messages through the broker. Prints the id of each, once it is committed.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  postbell send --to validation-agent --type command --priority 1 '{\"county\": \"c12\"}'
  postbell send --to '*' --type alert @alert.json
  postbell send --topic county.c12.done '{\"rows\": 40}'
  jq -c .[] batch.json | postbell send --to collector --lines")]
pub(super) struct SendArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(flatten)]
    address: Address,
    /// command, query, response, alert, heartbeat or data
    #[arg(long = "type", env = "POSTBELL_TYPE", default_value = "data")]
    message_type: MessageType,
    /// 1 (highest) to 10
    #[arg(long, env = "POSTBELL_PRIORITY", default_value = "5")]
    priority: Priority,
    /// Not delivered before this much time has passed, such as 30s or 5min
    #[arg(long, env = "POSTBELL_DELAY", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// Not delivered after this much time, such as 1h
    #[arg(long, env = "POSTBELL_TTL", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
    /// A second message with this key is the same message
    #[arg(long, env = "POSTBELL_DEDUPE_KEY", conflicts_with = "lines")]
    dedupe_key: Option<String>,
    /// All messages of an inbox with this key are handled one after the other
    #[arg(long, env = "POSTBELL_ORDERING_KEY")]
    ordering_key: Option<String>,
    /// The id that a question and its answers share
    #[arg(long, env = "POSTBELL_CORRELATION_ID")]
    correlation_id: Option<String>,
    /// Each line of the payload is a message
    #[arg(long, env = "POSTBELL_LINES")]
    lines: bool,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    json: bool,
    /// The payload as JSON: the text itself, @file, or - for standard input
    #[arg(default_value = "-")]
    payload: String,
}

pub(super) async fn run(args: SendArgs) -> Exit {
    let source = reader(&args.payload)?;
    // A window of 0: this process sends and takes nothing.
    let (client, _deliveries) = args.connect.builder()?.window(0).connect().await?;
    let result = if args.lines {
        send_lines(&client, &args, source).await
    } else {
        send_one(&client, &args, source).await
    };
    client.close().await;
    result.map(|()| ExitCode::SUCCESS)
}

fn reader(payload: &str) -> anyhow::Result<Box<dyn BufRead>> {
    Ok(match payload {
        "-" => Box::new(std::io::BufReader::new(std::io::stdin())),
        text => match text.strip_prefix('@') {
            Some(path) => {
                let file = std::fs::File::open(path).with_context(|| format!("{path} cannot be read"))?;
                Box::new(std::io::BufReader::new(file))
            }
            None => Box::new(std::io::Cursor::new(text.to_owned().into_bytes())),
        },
    })
}

async fn send_one(client: &Client, args: &SendArgs, mut source: Box<dyn BufRead>) -> anyhow::Result<()> {
    let mut text = String::new();
    source.read_to_string(&mut text).context("the payload cannot be read")?;
    let mut message = outgoing(args, text.trim())?;
    if let Some(key) = &args.dedupe_key {
        message = message.dedupe_key(key);
    }
    show(client.send(message).await?, args.json);
    Ok(())
}

/// Sends each line as a message. The first refused line ends the command; lines that are under way by then are
/// reported all the same.
async fn send_lines(client: &Client, args: &SendArgs, source: Box<dyn BufRead>) -> anyhow::Result<()> {
    let mut under_way = VecDeque::new();
    let mut result = submit_lines(client, args, source, &mut under_way).await;
    for (number, receipt) in under_way {
        result = result.and(committed(number, receipt, args).await);
    }
    result
}

async fn submit_lines(
    client: &Client,
    args: &SendArgs,
    source: Box<dyn BufRead>,
    under_way: &mut VecDeque<(u64, Receipt)>,
) -> anyhow::Result<()> {
    for (number, line) in (1..).zip(source.lines()) {
        let line = line.context("the payload cannot be read")?;
        if line.trim().is_empty() {
            continue;
        }
        let message = outgoing(args, line.trim()).with_context(|| format!("line {number}"))?;
        under_way.push_back((number, client.submit(message).await?));
        if under_way.len() >= AT_ONCE
            && let Some((number, first)) = under_way.pop_front()
        {
            committed(number, first, args).await?;
        }
    }
    Ok(())
}

async fn committed(number: u64, receipt: Receipt, args: &SendArgs) -> anyhow::Result<()> {
    show(receipt.committed().await.with_context(|| format!("line {number}"))?, args.json);
    Ok(())
}

fn outgoing(args: &SendArgs, text: &str) -> anyhow::Result<Outgoing> {
    let payload: &RawValue = match serde_json::from_str(text) {
        Ok(payload) => payload,
        Err(e) => bail!("the payload is not JSON: it goes wrong at line {}, column {}", e.line(), e.column()),
    };
    let kind = args.message_type;
    let message = match &args.address {
        Address { topic: Some(topic), .. } => Outgoing::to_topic(topic, kind, &payload)?,
        Address { to_environment: Some(environment), .. } => {
            Outgoing::to_environment(environment, kind, &payload)?
        }
        Address { to_group: Some(group), .. } => Outgoing::to_group(group, kind, &payload)?,
        Address { to, .. } => Outgoing::new(to.as_deref().unwrap_or_default(), kind, &payload)?,
    };
    let mut message = message.priority(args.priority);
    if let Some(delay) = args.delay {
        message = message.delay(delay);
    }
    if let Some(ttl) = args.ttl {
        message = message.ttl(ttl);
    }
    if let Some(key) = &args.ordering_key {
        message = message.ordering_key(key);
    }
    if let Some(id) = &args.correlation_id {
        message = message.correlation_id(id);
    }
    Ok(message)
}

fn show(id: Uuid, as_json: bool) {
    if as_json {
        output::json(&json!({"id": id}));
    } else {
        output::line(&id.to_string());
    }
}
