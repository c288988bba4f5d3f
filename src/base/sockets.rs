//! Bounds what the kernel buffers for one connection.
//!
//! Left alone, Linux lets a socket's send buffer grow to `tcp_wmem` (4 MB, on some machines 32). An agent that
//! stops reading would cost that much, outside every bound of the broker, and in a container the buffer counts
//! as the container's memory.

use tokio::net::TcpStream;

/// The send buffer: bytes for a peer that does not read. The kernel doubles the figure for its own headers and
/// counts those too, so a socket holds 256 KiB at most. So much is a whole window of 1,000 small messages, and
/// with a round trip of 50 ms it passes 2 MB a second.
pub const UNSENT_BYTES_MAX: usize = 128 * 1024;
/// The receive buffer: bytes that a peer sent and the broker does not read, before `hello` (a line of at most 8
/// KiB) or while a session is held back. The kernel doubles this figure in the same way.
pub const UNREAD_BYTES_MAX: usize = 256 * 1024;

/// Bounds both buffers of a socket.
pub fn bound(socket: &TcpStream) {
    set(socket, Way::Out, UNSENT_BYTES_MAX);
    set(socket, Way::In, UNREAD_BYTES_MAX);
}

enum Way {
    In,
    Out,
}

#[cfg(unix)]
fn set(socket: &TcpStream, way: Way, bytes: usize) {
    use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_send_buffer_size};
    let set = match way {
        Way::In => set_socket_recv_buffer_size(socket, bytes),
        Way::Out => set_socket_send_buffer_size(socket, bytes),
    };
    if let Err(error) = set {
        tracing::debug!(%error, "a socket keeps the buffers that the system gave it");
    }
}

#[cfg(not(unix))]
fn set(_: &TcpStream, _: Way, _: usize) {}
