//! The address at which other brokers find this one.

use std::net::{IpAddr, SocketAddr};

use crate::broker::config::Config;
use crate::store::local_ip;

/// Returns the address that is configured, or else the listening address. If the broker listens on every address, its
/// host is the one from which connections to the database leave, since the other brokers reach the database too.
pub(super) async fn advertised(config: &Config, listening: SocketAddr) -> String {
    if let Some(address) = &config.advertise {
        return address.clone();
    }
    let leaves_from = match listening.ip().is_unspecified() {
        true => local_ip(&config.database).await,
        false => None,
    };
    address(listening, leaves_from).to_string()
}

fn address(listening: SocketAddr, leaves_from: Option<IpAddr>) -> SocketAddr {
    SocketAddr::new(leaves_from.unwrap_or(listening.ip()), listening.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_set_comes_first_then_the_listening_address_then_the_one_towards_the_database() {
        let parse = |more: &[(&str, &str)]| {
            let mut all = vec![("DATABASE_URL", "postgres://u:p@127.0.0.1/d")];
            all.extend(more);
            let value = |env: &str| all.iter().find(|(k, _)| *k == env).map(|(_, v)| (*v).to_owned());
            Config::parse(value).expect("settings")
        };
        let any: SocketAddr = "[::]:7440".parse().expect("address");
        let one: SocketAddr = "10.1.2.3:7440".parse().expect("address");
        let set = parse(&[("POSTBELL_ADVERTISE", "broker-1.internal:7440")]);
        assert_eq!(advertised(&set, any).await, "broker-1.internal:7440");
        assert_eq!(advertised(&parse(&[]), one).await, "10.1.2.3:7440");
        assert_eq!(advertised(&parse(&[]), any).await, "127.0.0.1:7440");
    }
}
