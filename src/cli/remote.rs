//! The client of a broker's HTTP API, for commands that watch.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, HOST};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::broker::config::{ConfigError, OPERATOR_TOKEN, VIEWER_TOKEN};
use postbell_client::certificates::{PemFile, provider, system_roots};

/// How long the broker may take to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// The longest silence before the broker is taken for gone: the broker says something every 15 s.
const SILENCE: Duration = Duration::from_secs(40);
/// The longest event that is read: a mesh of a thousand agents is a quarter of it.
const EVENT_BYTES_MAX: usize = 1024 * 1024;

/// Where the broker's HTTP port is.
#[derive(clap::Args)]
pub(super) struct RemoteArgs {
    /// The broker's HTTP port; a token comes by POSTBELL_VIEWER_TOKEN or POSTBELL_OPERATOR_TOKEN
    #[arg(long, env = "POSTBELL_HTTP_URL", default_value = "http://127.0.0.1:9440")]
    url: String,
    /// With https: the CA that must have issued its certificate, a PEM file; else the system's trusted ones
    #[arg(long, env = "POSTBELL_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
}

/// A broker's HTTP port, and how to speak to it.
pub(super) struct Remote {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    token: Option<String>,
}

impl RemoteArgs {
    pub(super) fn remote(&self) -> anyhow::Result<Remote> {
        let wrong = || {
            let url = &self.url;
            ConfigError::new(format!(
                "--url (POSTBELL_HTTP_URL) must be http://host:port or https://host, not {url:?}"
            ))
        };
        let uri: Uri = self.url.parse().map_err(|_| wrong())?;
        let (encrypted, port) = match uri.scheme_str() {
            Some("http") => (false, 80),
            Some("https") => (true, 443),
            _ => return Err(wrong().into()),
        };
        let host = uri.host().ok_or_else(wrong)?.to_owned();
        let port = uri.port_u16().unwrap_or(port);
        let tls = encrypted.then(|| self.tls(&host)).transpose()?;
        let token = [VIEWER_TOKEN, OPERATOR_TOKEN].iter().find_map(|setting| std::env::var(setting.env).ok());
        Ok(Remote { host, port, tls, token: token.filter(|token| !token.is_empty()) })
    }

    fn tls(&self, host: &str) -> anyhow::Result<(TlsConnector, ServerName<'static>)> {
        let roots = match &self.ca {
            Some(path) => PemFile::read(path).and_then(|file| file.roots())?,
            None => system_roots(),
        };
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = host.trim_matches(['[', ']']).to_owned();
        Ok((TlsConnector::from(Arc::new(config)), ServerName::try_from(name)?))
    }
}

impl Remote {
    /// Host and port, for people.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Begins to watch.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub(super) async fn events(&self) -> anyhow::Result<Events> {
        let answer = timeout(ANSWER_WAIT, self.get("/api/events")).await;
        let answer = answer.with_context(|| format!("{} does not answer", self.address()))??;
        match answer.status() {
            StatusCode::OK => Ok(Events { body: answer.into_body(), buffer: Vec::new() }),
            StatusCode::UNAUTHORIZED => bail!(
                "{} shows its mesh to those with a token: set POSTBELL_VIEWER_TOKEN or POSTBELL_OPERATOR_TOKEN, as \
                 the broker has it",
                self.address()
            ),
            StatusCode::NOT_FOUND => {
                bail!("{} has no status page: its POSTBELL_STATUS is off", self.address())
            }
            StatusCode::SERVICE_UNAVAILABLE => bail!("as many watch {} as may at a time", self.address()),
            status => bail!("{} answered {status}: is it a broker's HTTP port?", self.address()),
        }
    }

    async fn get(&self, path: &str) -> anyhow::Result<Response<Incoming>> {
        let host = self.host.trim_matches(['[', ']']);
        let socket = TcpStream::connect((host, self.port)).await;
        let socket = socket.with_context(|| {
            let address = self.address();
            format!(
                "{address} cannot be reached (--url, POSTBELL_HTTP_URL): it is the broker's POSTBELL_HTTP"
            )
        })?;
        match &self.tls {
            None => self.ask(socket, path).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), socket).await;
                self.ask(stream.with_context(|| format!("TLS to {} failed", self.address()))?, path).await
            }
        }
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
    ) -> anyhow::Result<Response<Incoming>> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The connection ends with the answer's body, and the body tells of a fault.
        tokio::spawn(async move { drop(connection.await) });
        let mut request = Request::get(path).header(HOST, self.address());
        if let Some(token) = &self.token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        Ok(sender.send_request(request.body(Empty::<Bytes>::new())?).await?)
    }
}

/// The stream of a broker's events.
pub(super) struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

/// An event: its name, and JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) name: String,
    pub(super) data: String,
}

impl Events {
    /// The next event; `None` at the end of the stream.
    ///
    /// # Errors
    /// The broker is gone or silent, or what answers is no broker.
    pub(super) async fn next(&mut self) -> anyhow::Result<Option<Event>> {
        loop {
            if let Some(event) = take_event(&mut self.buffer) {
                return Ok(Some(event));
            }
            let frame = timeout(SILENCE, self.body.frame()).await.context("the broker fell silent")?;
            match frame {
                None => return Ok(None),
                Some(frame) => {
                    let data = frame.context("the broker is gone")?.into_data();
                    self.buffer.extend_from_slice(&data.unwrap_or_default());
                }
            }
            if self.buffer.len() > EVENT_BYTES_MAX {
                bail!("what comes is longer than an event of a broker's ever is");
            }
        }
    }
}

/// Takes the first whole event that has a name and data; blocks without them, such as comments, are dropped.
fn take_event(buffer: &mut Vec<u8>) -> Option<Event> {
    loop {
        let end = buffer.windows(2).position(|two| two == b"\n\n")?;
        let block: Vec<u8> = buffer.drain(..end + 2).collect();
        let text = String::from_utf8_lossy(&block);
        let line = |prefix: &str| text.lines().find_map(|line| line.strip_prefix(prefix));
        if let (Some(name), Some(data)) = (line("event: "), line("data: ")) {
            return Some(Event { name: name.to_owned(), data: data.to_owned() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_taken_whole() {
        let mut buffer = b"retry: 2000\n\nevent: flow\ndata: {}\n\n: still here\n\nevent: mesh\nda".to_vec();
        let flow = take_event(&mut buffer).expect("an event");
        assert_eq!((flow.name.as_str(), flow.data.as_str()), ("flow", "{}"));
        assert_eq!(take_event(&mut buffer), None);
        buffer.extend_from_slice(b"ta: 1\n\n");
        assert_eq!(take_event(&mut buffer).map(|e| e.data), Some("1".to_owned()));
        assert!(buffer.is_empty());
    }
}
