//! Where a broker is.

use super::ClientError;

const DEFAULT_PORT: u16 = 7440;

/// The address of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// `host:port`; an IPv6 host is in brackets.
    pub(super) text: String,
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
