//! One connection: address, a question whether anybody is there, hello and welcome.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::address::Address;
use super::patience::Patience;
use super::{Builder, ClientError, State};
use crate::protocol::codec::{LineError, LineReader, write_whole};
use crate::protocol::frame::{Welcome, push_line};
use crate::protocol::limits::LINE_BYTES_MAX;
use crate::protocol::{ClientFrame, ErrorCode, ServerFrame};

pub(super) const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// The longest line that is read, even if the broker announces more.
const READ_BYTES_MAX: usize = 16 * LINE_BYTES_MAX;

type ReadHalf = Box<dyn AsyncRead + Send + Sync + Unpin>;
type WriteHalf = Box<dyn AsyncWrite + Send + Sync + Unpin>;

/// An open session. Public for the broker, which makes its links of it.
#[cfg_attr(
    not(feature = "link"),
    allow(unreachable_pub, reason = "nobody outside has it without that feature")
)]
pub struct BrokerConnection {
    /// The lines of the broker.
    pub reader: LineReader<ReadHalf>,
    /// The lines to the broker.
    pub writer: WriteHalf,
    /// The broker's answer to the hello.
    pub welcome: Welcome,
}

impl BrokerConnection {
    pub(super) fn state(&self) -> State {
        State::Connected { broker: self.welcome.broker.clone(), session: self.welcome.session }
    }
}

/// How a client comes to its broker: the address, and how long it waits there for a sign of life.
#[derive(Clone, Debug)]
pub(super) struct Approach {
    address: Address,
    patience: Patience,
}

impl Approach {
    pub(super) const fn to(address: Address) -> Self {
        Self { address, patience: Patience::new() }
    }
}

/// Connects, asks whether anybody is there, and says hello.
///
/// A frozen broker's kernel accepts connections that nobody reads. A client that gives up the question has done
/// nothing, so the client may be quick to try elsewhere. A hello that is given up may arrive late, and would take the
/// place of the session that followed it.
pub(super) async fn open(
    builder: &Builder,
    approach: &mut Approach,
) -> Result<BrokerConnection, ClientError> {
    within(CONNECT_WAIT, find(builder, approach)).await?.greet(builder).await
}

/// Connects and says hello at once, as a broker's link does: the rank in its hello tells which of two came later.
#[cfg(feature = "link")]
pub(super) async fn open_unasked(
    builder: &Builder,
    address: &Address,
) -> Result<BrokerConnection, ClientError> {
    let secured = async { connect(builder, address).await?.secured(address).await };
    within(CONNECT_WAIT, secured).await?.greet(builder).await
}

async fn within<T>(
    wait: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    timeout(wait, work).await.unwrap_or(Err(ClientError::Timeout(wait)))
}

/// Asks on one connection after the other, since a balancer may lead each to another broker, until one answers.
async fn find(builder: &Builder, approach: &mut Approach) -> Result<Greeting, ClientError> {
    loop {
        let connection = connect(builder, &approach.address).await?;
        let (asked, wait) = (Instant::now(), approach.patience.wait());
        let answer = async {
            let mut lines = connection.secured(&approach.address).await?;
            lines.ask().await?;
            Ok(lines)
        };
        match timeout(wait, answer).await {
            Err(_) => approach.patience.silent(),
            // An older broker knows no question and closes.
            Ok(Err(ClientError::Refused { code: ErrorCode::HelloExpected, .. })) => {
                return connect(builder, &approach.address).await?.secured(&approach.address).await;
            }
            Ok(answer) => {
                let lines = answer?;
                approach.patience.answered(asked.elapsed());
                return Ok(lines);
            }
        }
    }
}

/// A connection that nothing was said on.
struct Connected {
    socket: TcpStream,
    #[cfg(feature = "tls")]
    tls: Option<super::tls::Prepared>,
}

async fn connect(builder: &Builder, address: &Address) -> Result<Connected, ClientError> {
    // First, since a fault here needs no connection to be found.
    #[cfg(feature = "tls")]
    let tls = if address.tls { Some(builder.trust.prepare(address).await?) } else { None };
    #[cfg(not(feature = "tls"))]
    let _ = builder;
    let socket = TcpStream::connect(&address.text).await.map_err(|e| address.fault(e))?;
    socket.set_nodelay(true).map_err(|e| address.fault(e))?;
    Ok(Connected {
        socket,
        #[cfg(feature = "tls")]
        tls,
    })
}

impl Connected {
    /// Encrypts the connection if the address says so.
    async fn secured(self, address: &Address) -> Result<Greeting, ClientError> {
        #[cfg(feature = "tls")]
        if let Some((connector, name)) = self.tls {
            let stream = connector.connect(name, self.socket).await.map_err(|e| address.fault(e))?;
            return Ok(Greeting::new(address, tokio::io::split(stream)));
        }
        Ok(Greeting::new(address, self.socket.into_split()))
    }
}

/// A connection before its session.
struct Greeting {
    address: Address,
    reader: LineReader<ReadHalf>,
    writer: WriteHalf,
}

impl Greeting {
    fn new<R, W>(address: &Address, (read, write): (R, W)) -> Self
    where
        R: AsyncRead + Send + Sync + Unpin + 'static,
        W: AsyncWrite + Send + Sync + Unpin + 'static,
    {
        let reader: ReadHalf = Box::new(read);
        let reader = LineReader::new(reader, LINE_BYTES_MAX);
        Self { address: address.clone(), reader, writer: Box::new(write) }
    }

    async fn ask(&mut self) -> Result<(), ClientError> {
        match self.answer_to(&ClientFrame::Ping {}).await? {
            Some(ServerFrame::Pong {}) => Ok(()),
            _ => Err(ClientError::Protocol("it did not answer a ping".to_owned())),
        }
    }

    async fn greet(mut self, builder: &Builder) -> Result<BrokerConnection, ClientError> {
        let hello = ClientFrame::Hello(builder.hello.clone());
        match within(CONNECT_WAIT, self.answer_to(&hello)).await? {
            Some(ServerFrame::Welcome(welcome)) => {
                self.reader.set_limit(welcome.limits.line_bytes.clamp(LINE_BYTES_MAX, READ_BYTES_MAX));
                Ok(BrokerConnection { reader: self.reader, writer: self.writer, welcome })
            }
            _ => Err(ClientError::Protocol("it did not say welcome".to_owned())),
        }
    }

    /// Writes one line and reads the next one. An error of the broker is the error.
    async fn answer_to(&mut self, said: &ClientFrame) -> Result<Option<ServerFrame>, ClientError> {
        let mut line = Vec::new();
        push_line(&mut line, said);
        // A broker that refuses may close before it has read the line; then its own line says why, and the write's
        // error does not.
        let said = write_whole(&mut self.writer, &line).await;
        let line = match self.reader.next_line().await {
            Ok(Some(line)) => line,
            Ok(None) => {
                return Err(self
                    .address
                    .fault(said.err().unwrap_or(std::io::ErrorKind::UnexpectedEof.into())));
            }
            Err(LineError::Io(e)) => return Err(self.address.fault(e)),
            Err(e @ LineError::TooLong(_)) => return Err(ClientError::Protocol(e.to_string())),
        };
        match ServerFrame::decode(&line) {
            Ok(Some(ServerFrame::Error { code, message, retry_ms, .. })) => {
                Err(ClientError::Refused { code, message, retry: retry_ms.map(Duration::from_millis) })
            }
            Ok(frame) => Ok(frame),
            Err(_) => Err(ClientError::Protocol("its first line cannot be read".to_owned())),
        }
    }
}
