//! What the kernel holds for one connection: as much as is said here, not as much as it likes.
//!
//! Left alone, Linux lets a socket's send buffer grow to `tcp_wmem` (4 MB, on some machines 32): that is what an agent that
//! stops reading costs, outside of every bound of the broker, and in a container it counts as the container's memory.

use tokio::net::TcpStream;

/// What the kernel may hold for a peer that does not read. It doubles the figure for its own headers and counts those too, so a socket
/// holds 256 KiB at most. That is a whole window of 1,000 small messages; with a way of 50 ms it passes 2 MB a second.
pub const UNSENT_BYTES_MAX: usize = 128 * 1024;
/// What it may hold of what a peer sent and the broker does not read: before `hello`, which is a line of at most 8 KiB, and while a
/// session is held back. Doubled in the same way.
pub const UNREAD_BYTES_MAX: usize = 256 * 1024;

/// Bounds both.
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
