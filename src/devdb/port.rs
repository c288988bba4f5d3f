//! A port for a server that somebody else starts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::net::TcpSocket;

/// A free port on 127.0.0.1. Linux gives it to nobody who asks for any port while this value lives, whereas a server
/// that asks for this very port gets it, as often as it starts. On other systems the port was free a moment ago.
#[derive(Debug)]
pub struct KeptPort {
    address: SocketAddr,
    /// Bound, and never listening: only then may a server, which reuses addresses as well, bind the same port.
    _socket: Option<TcpSocket>,
}

impl KeptPort {
    /// Takes one.
    ///
    /// # Errors
    /// The system has none.
    pub fn take() -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self { address: socket.local_addr()?, _socket: cfg!(target_os = "linux").then_some(socket) })
    }

    /// Where the server is to listen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
