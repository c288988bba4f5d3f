//! One connection: address, hello and welcome.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Builder, ClientError, State};
use crate::protocol::codec::{LineError, LineReader, write_whole};
use crate::protocol::frame::{Welcome, push_line};
use crate::protocol::limits::LINE_BYTES_MAX;
use crate::protocol::{ClientFrame, ServerFrame};

const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// The longest line that is read, even if the broker announces more.
const READ_BYTES_MAX: usize = 16 * LINE_BYTES_MAX;
const DEFAULT_PORT: u16 = 7440;

type ReadHalf = Box<dyn AsyncRead + Send + Sync + Unpin>;
type WriteHalf = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// An open session. Public for the broker, which makes its links of it.
#[cfg_attr(
    not(feature = "link"),
    allow(unreachable_pub, reason = "nobody outside has it without that feature")
)]
pub struct Connection {
    /// The lines of the broker.
    pub reader: LineReader<ReadHalf>,
    /// The lines to the broker.
    pub writer: WriteHalf,
    /// The broker's answer to the hello.
    pub welcome: Welcome,
}

impl Connection {
    pub(super) fn state(&self) -> State {
        State::Connected { broker: self.welcome.broker.clone(), session: self.welcome.session }
    }
}

/// The address of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// `host:port`; an IPv6 host is in brackets.
    text: String,
    /// Whether the broker speaks TLS there.
    pub(super) tls: bool,
}

impl Address {
    /// The address in a `tcp://` or `tcp+tls://` URL.
    pub(super) fn parse(url: &str) -> Result<Self, ClientError> {
        let (tls, rest) = match url.strip_prefix("tcp+tls://") {
            Some(rest) => (true, rest),
            None => (false, url.strip_prefix("tcp://").unwrap_or(url)),
        };
        if tls && cfg!(not(feature = "tls")) {
            let sentence = "this client was built without TLS: it needs the feature `tls` of the package postbell-client";
            return Err(ClientError::Url(sentence.to_owned()));
        }
        let rest = rest.trim_end_matches('/');
        let port_at = rest.rfind(':').filter(|at| *at > rest.rfind(']').unwrap_or(0));
        let fault = || {
            let sentence = format!(
                "the broker's URL must look like tcp://host:7440 or tcp+tls://host:7440, not {url:?}"
            );
            ClientError::Url(sentence)
        };
        if rest.is_empty() || rest.contains('/') || rest.contains('@') {
            return Err(fault());
        }
        let text = match port_at {
            None => format!("{rest}:{DEFAULT_PORT}"),
            Some(at) => rest[at + 1..].parse::<u16>().map(|_| rest.to_owned()).map_err(|_| fault())?,
        };
        Ok(Self { text, tls })
    }

    /// `host:port`, as it is connected to.
    #[cfg(any(test, fuzzing, feature = "fuzzing"))]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The host as a certificate names it: without the port and brackets.
    #[cfg(feature = "tls")]
    pub(super) fn host(&self) -> &str {
        let host = self.text.rsplit_once(':').map_or(&*self.text, |(host, _)| host);
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// The error for a failed connection to this address.
    pub(super) fn fault(&self, fault: std::io::Error) -> ClientError {
        let address = self.text.clone();
        #[cfg(feature = "tls")]
        if let Some(reason) = super::tls::sentence(&fault) {
            return ClientError::Tls { address, reason };
        }
        ClientError::Unreachable { address, kind: fault.kind(), reason: fault.to_string() }
    }
}

/// Connects and says hello.
pub(crate) async fn open(address: &Address, builder: &Builder) -> Result<Connection, ClientError> {
    timeout(CONNECT_WAIT, greet(address, builder)).await.unwrap_or(Err(ClientError::Timeout(CONNECT_WAIT)))
}

async fn halves(address: &Address, builder: &Builder) -> Result<(ReadHalf, WriteHalf), ClientError> {
    // First, since a fault here needs no connection to be found.
    #[cfg(feature = "tls")]
    let tls = if address.tls { Some(builder.trust.prepare(address).await?) } else { None };
    #[cfg(not(feature = "tls"))]
    let _ = builder;
    let socket = TcpStream::connect(&address.text).await.map_err(|e| address.fault(e))?;
    socket.set_nodelay(true).map_err(|e| address.fault(e))?;
    #[cfg(feature = "tls")]
    if let Some((connector, name)) = tls {
        let stream = connector.connect(name, socket).await.map_err(|e| address.fault(e))?;
        let (read, write) = tokio::io::split(stream);
        return Ok((Box::new(read), Box::new(write)));
    }
    let (read, write) = socket.into_split();
    Ok((Box::new(read), Box::new(write)))
}

async fn greet(address: &Address, builder: &Builder) -> Result<Connection, ClientError> {
    let (read, mut writer) = halves(address, builder).await?;
    let mut line = Vec::new();
    push_line(&mut line, &ClientFrame::Hello(builder.hello.clone()));
    // A broker that refuses may close before it has read the hello; then its own line says why, and the write's
    // error does not.
    let said = write_whole(&mut writer, &line).await;
    let mut reader = LineReader::new(read, LINE_BYTES_MAX);
    let line = match reader.next_line().await {
        Ok(Some(line)) => line,
        Ok(None) => return Err(address.fault(said.err().unwrap_or(std::io::ErrorKind::UnexpectedEof.into()))),
        Err(LineError::Io(e)) => return Err(address.fault(e)),
        Err(e @ LineError::TooLong(_)) => return Err(ClientError::Protocol(e.to_string())),
    };
    match ServerFrame::decode(&line) {
        Ok(Some(ServerFrame::Welcome(welcome))) => {
            reader.set_limit(welcome.limits.line_bytes.clamp(LINE_BYTES_MAX, READ_BYTES_MAX));
            Ok(Connection { reader, writer, welcome })
        }
        Ok(Some(ServerFrame::Error { code, message, retry_ms, .. })) => {
            Err(ClientError::Refused { code, message, retry: retry_ms.map(Duration::from_millis) })
        }
        Ok(_) => Err(ClientError::Protocol("it did not say welcome".to_owned())),
        Err(_) => Err(ClientError::Protocol("its first line cannot be read".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        let parse = |url| Address::parse(url).map(|address| (address.text, address.tls));
        let clear = |text: &str| Ok((text.to_owned(), false));
        assert_eq!(parse("tcp://h:1"), clear("h:1"));
        assert_eq!(parse("tcp://h/"), clear("h:7440"));
        assert_eq!(parse("localhost:7441"), clear("localhost:7441"));
        assert_eq!(parse("tcp://[::1]"), clear("[::1]:7440"));
        assert_eq!(parse("tcp://[::1]:9"), clear("[::1]:9"));
        for bad in ["", "tcp://", "tcp://h:x", "tcp://u:p@h:1", "tcp+tls://", "tls://h:1", "http://h:1"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[cfg(feature = "tls")]
    #[test]
    fn the_host_is_what_a_certificate_has() {
        for (url, host) in
            [("tcp+tls://h", "h"), ("tcp+tls://[::1]:9", "::1"), ("tcp+tls://10.0.0.1", "10.0.0.1")]
        {
            let address = Address::parse(url).expect(url);
            assert_eq!((address.host(), address.tls), (host, true), "{url}");
        }
    }

    #[cfg(not(feature = "tls"))]
    #[test]
    fn without_the_feature_tls_is_refused_in_words() {
        let refused = Address::parse("tcp+tls://h").expect_err("no TLS").to_string();
        assert!(refused.contains("built without TLS"), "{refused}");
    }
}
