//! The address of this machine, as seen from the database.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{UdpSocket, lookup_host};

use super::connection::Target;

/// The address from which connections to the database leave; `None` without a route, or over a Unix socket.
pub async fn local_ip(target: &Target) -> Option<IpAddr> {
    let server = lookup_host((target.url.host(), target.url.port())).await.ok()?.next()?;
    let any = match server {
        SocketAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    // Connecting a datagram socket sends nothing: it only asks the system for the route.
    let socket = UdpSocket::bind((any, 0)).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}
