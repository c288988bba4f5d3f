//! One connection: the address, the hello, and the welcome.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use super::{ClientError, State};
use crate::protocol::codec::{LineError, LineReader};
use crate::protocol::frame::{Hello, Welcome, push_line};
use crate::protocol::limits::LINE_BYTES_MAX;
use crate::protocol::{ClientFrame, ServerFrame};

const CONNECT_WAIT: Duration = Duration::from_secs(10);
const DEFAULT_PORT: u16 = 7440;

/// An open session.
pub(crate) struct Connection {
    pub(crate) reader: LineReader<OwnedReadHalf>,
    pub(crate) writer: OwnedWriteHalf,
    pub(crate) welcome: Welcome,
}

impl Connection {
    pub(super) fn state(&self) -> State {
        State::Connected { broker: self.welcome.broker.clone(), session: self.welcome.session }
    }
}

/// `host:port` of a `tcp://` URL.
pub(super) fn address(url: &str) -> Result<String, ClientError> {
    if url.starts_with("tcp+tls://") {
        return Err(ClientError::Url("this version speaks no TLS to the broker: use tcp://".to_owned()));
    }
    let rest = url.strip_prefix("tcp://").unwrap_or(url).trim_end_matches('/');
    let port_at = rest.rfind(':').filter(|at| *at > rest.rfind(']').unwrap_or(0));
    let fault = || ClientError::Url(format!("the broker's URL must look like tcp://host:7440, not {url:?}"));
    if rest.is_empty() || rest.contains('/') || rest.contains('@') {
        return Err(fault());
    }
    match port_at {
        None => Ok(format!("{rest}:{DEFAULT_PORT}")),
        Some(at) => rest[at + 1..].parse::<u16>().map(|_| rest.to_owned()).map_err(|_| fault()),
    }
}

/// Connects and says hello.
pub(crate) async fn open(address: &str, hello: &Hello) -> Result<Connection, ClientError> {
    timeout(CONNECT_WAIT, greet(address, hello)).await.unwrap_or(Err(ClientError::Timeout(CONNECT_WAIT)))
}

async fn greet(address: &str, hello: &Hello) -> Result<Connection, ClientError> {
    let unreachable = |e: std::io::Error| ClientError::Unreachable {
        address: address.to_owned(),
        kind: e.kind(),
        reason: e.to_string(),
    };
    let socket = TcpStream::connect(address).await.map_err(unreachable)?;
    socket.set_nodelay(true).map_err(unreachable)?;
    let (read, mut writer) = socket.into_split();
    let mut line = Vec::new();
    push_line(&mut line, &ClientFrame::Hello(hello.clone()));
    writer.write_all(&line).await.map_err(unreachable)?;
    let mut reader = LineReader::new(read, LINE_BYTES_MAX);
    let line = match reader.next_line().await {
        Ok(Some(line)) => line,
        Ok(None) => return Err(unreachable(std::io::ErrorKind::UnexpectedEof.into())),
        Err(LineError::Io(e)) => return Err(unreachable(e)),
        Err(e @ LineError::TooLong(_)) => return Err(ClientError::Protocol(e.to_string())),
    };
    match ServerFrame::decode(&line) {
        Ok(Some(ServerFrame::Welcome(welcome))) => Ok(Connection { reader, writer, welcome }),
        Ok(Some(ServerFrame::Error { code, message, retry_ms, .. })) => {
            Err(ClientError::Refused { code, message, retry: retry_ms.map(Duration::from_millis) })
        }
        Ok(_) => Err(ClientError::Protocol("it did not say welcome".to_owned())),
        Err(e) => Err(ClientError::Protocol(e.message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        assert_eq!(address("tcp://h:1").as_deref(), Ok("h:1"));
        assert_eq!(address("tcp://h/").as_deref(), Ok("h:7440"));
        assert_eq!(address("localhost:7441").as_deref(), Ok("localhost:7441"));
        assert_eq!(address("tcp://[::1]").as_deref(), Ok("[::1]:7440"));
        assert_eq!(address("tcp://[::1]:9").as_deref(), Ok("[::1]:9"));
        for bad in ["", "tcp://", "tcp://h:x", "tcp://u:p@h:1", "tcp+tls://h:1", "http://h:1"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }
}
