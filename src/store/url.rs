//! Database URLs as people paste them: Supabase, Railway, RDS, a laptop.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::Host;

/// The time after which a silent server connection is probed; below, the time between probes, and how many silent
/// probes end the connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;
/// How long sent data may stay unacknowledged before the connection counts as lost.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(30);
/// How long opening a connection may take.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// The port at which Supabase and many others have a transaction pooler.
const TRANSACTION_POOLER_PORT: u16 = 6543;

/// Parameters that are passed on to the driver; `sslmode` and `sslrootcert` are read here.
const PASSED_ON: &[&str] = &[
    "application_name",
    "options",
    "hostaddr",
    "target_session_attrs",
    "channel_binding",
    "load_balance_hosts",
];

/// How much TLS is asked for, in libpq's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server has it; off loopback treated as [`Require`](Self::Require).
    Prefer,
    /// Encrypted, but whoever answers is believed.
    Require,
    /// The certificate must come from a known issuer.
    VerifyCa,
    /// The certificate must come from a known issuer and name this host.
    VerifyFull,
}

/// A fault of a database URL, in a sentence that never quotes a password.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct UrlError(String);

fn fault<T>(sentence: impl Into<String>) -> Result<T, UrlError> {
    Err(UrlError(sentence.into()))
}

/// The address of the database, and how to connect.
#[derive(Clone)]
pub struct DatabaseUrl {
    pub(super) config: tokio_postgres::Config,
    host: String,
    port: u16,
    ssl_mode: SslMode,
    ssl_root_cert: Option<PathBuf>,
    ignored: Vec<String>,
}

impl DatabaseUrl {
    /// Reads a `postgres://` URL.
    ///
    /// # Errors
    /// Says what is wrong and what to write instead.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        let url = url.trim();
        let Some((scheme, rest)) = url.split_once("://") else {
            return fault("the database URL must look like postgres://user:password@host:5432/database");
        };
        if !matches!(scheme, "postgres" | "postgresql") {
            return fault("the database URL must begin with postgres:// or postgresql://");
        }
        let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
        let authority = base.split('/').next().unwrap_or("");
        if authority.matches('@').count() > 1 || base.contains('#') || query.contains('#') {
            return fault("the database URL has an @ or # in its user or password: write it as %40 or %23");
        }
        let (mut ssl_mode, mut ssl_root_cert) = (SslMode::Prefer, None);
        let (mut passed, mut ignored) = (Vec::new(), Vec::new());
        for pair in query.split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "sslmode" => ssl_mode = parse_ssl_mode(value)?,
                "sslrootcert" => {
                    ssl_root_cert =
                        Some(PathBuf::from(percent_decode_str(value).decode_utf8_lossy().into_owned()))
                }
                _ if PASSED_ON.contains(&key) => passed.push(pair),
                _ => ignored.push(key.to_owned()),
            }
        }
        let plain = format!("postgres://{base}?{}", passed.join("&"));
        let config: tokio_postgres::Config = match plain.parse() {
            Ok(config) => config,
            // The driver's own sentence may quote the text that it could not read, including a password.
            Err(_) => {
                return fault(
                    "the database URL cannot be read: it must look like \
                     postgres://user:password@host:5432/database, with special characters of the password \
                     written as %XX",
                );
            }
        };
        let this = Self { config, host: String::new(), port: 5432, ssl_mode, ssl_root_cert, ignored };
        this.complete()
    }

    fn complete(mut self) -> Result<Self, UrlError> {
        self.host = match self.config.get_hosts() {
            [Host::Tcp(host)] => host.trim_matches(['[', ']']).to_owned(),
            #[cfg(unix)]
            [Host::Unix(path)] => path.display().to_string(),
            [] => return fault("the database URL names no host"),
            _ => return fault("the database URL names several hosts: name one, LISTEN lives on one server"),
        };
        self.port = self.config.get_ports().first().copied().unwrap_or(5432);
        if self.port == TRANSACTION_POOLER_PORT {
            return fault(
                "port 6543 is a transaction pooler, on which LISTEN never arrives: use the direct connection or \
                 the session pooler, both on port 5432",
            );
        }
        if self.ssl_mode == SslMode::Prefer && !self.is_loopback() {
            self.ssl_mode = SslMode::Require;
        }
        // As in libpq, naming an issuer means that the issuer is checked.
        if self.ssl_mode == SslMode::Require && self.ssl_root_cert.is_some() {
            self.ssl_mode = SslMode::VerifyCa;
        }
        let driver_mode = match self.ssl_mode {
            SslMode::Disable => tokio_postgres::config::SslMode::Disable,
            SslMode::Prefer => tokio_postgres::config::SslMode::Prefer,
            _ => tokio_postgres::config::SslMode::Require,
        };
        if self.config.get_application_name().is_none() {
            self.config.application_name("postbell");
        }
        self.config
            .ssl_mode(driver_mode)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_PROBES)
            .tcp_user_timeout(UNACKNOWLEDGED_MAX)
            .connect_timeout(CONNECT_WAIT);
        Ok(self)
    }

    /// The host, or the folder of the socket.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, which is 5432 if the URL names none.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How much TLS is asked for.
    pub fn ssl_mode(&self) -> SslMode {
        self.ssl_mode
    }

    /// The file with the trusted issuers.
    pub fn ssl_root_cert(&self) -> Option<&PathBuf> {
        self.ssl_root_cert.as_ref()
    }

    /// Parameters that have no meaning here, such as `pgbouncer`.
    pub fn ignored(&self) -> &[String] {
        &self.ignored
    }

    /// Whether the server is on this machine.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self.host.starts_with('/')
            || self.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// `user@host:port/database`, which is safe in a log.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.config.get_user().unwrap_or("");
        let database = self.config.get_dbname().unwrap_or(user);
        write!(f, "{user}@{}:{}/{database}", self.host, self.port)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn parse_ssl_mode(value: &str) -> Result<SslMode, UrlError> {
    Ok(match value {
        "disable" => SslMode::Disable,
        "allow" | "prefer" => SslMode::Prefer,
        "require" | "no-verify" => SslMode::Require,
        "verify-ca" => SslMode::VerifyCa,
        "verify-full" => SslMode::VerifyFull,
        _ => return fault("sslmode must be disable, prefer, require, verify-ca or verify-full"),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ok(url: &str) -> DatabaseUrl {
        DatabaseUrl::parse(url).expect("a good URL")
    }

    #[test]
    fn urls_that_people_paste_work() {
        let url = ok(
            "postgresql://postgres.ref:p%40ss@aws-0-eu.pooler.example.com:5432/postgres?supa=base-pooler.x&pgbouncer=true",
        );
        assert_eq!(url.to_string(), "postgres.ref@aws-0-eu.pooler.example.com:5432/postgres");
        assert_eq!(url.ignored(), ["supa", "pgbouncer"]);
        assert_eq!(url.config.get_password(), Some(&b"p@ss"[..]));
        let url = ok("postgres://u:p@db.example.com/x?sslmode=verify-full&sslrootcert=%2Fetc%2Fca.crt");
        assert_eq!((url.ssl_mode(), url.port()), (SslMode::VerifyFull, 5432));
        assert_eq!(url.ssl_root_cert(), Some(&PathBuf::from("/etc/ca.crt")));
        assert!(ok("postgres://u@[::1]:5433/x").is_loopback());
    }

    #[test]
    fn plaintext_off_this_machine_is_never_silent() {
        assert_eq!(ok("postgres://u@db.example.com/x").ssl_mode(), SslMode::Require);
        assert_eq!(ok("postgres://u@db.example.com/x?sslmode=prefer").ssl_mode(), SslMode::Require);
        assert_eq!(ok("postgres://u@db.example.com/x?sslmode=disable").ssl_mode(), SslMode::Disable);
        assert_eq!(ok("postgres://u@localhost/x").ssl_mode(), SslMode::Prefer);
        assert_eq!(ok("postgres://u@h/x?sslmode=require&sslrootcert=ca").ssl_mode(), SslMode::VerifyCa);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let sentence = |url| DatabaseUrl::parse(url).expect_err("refused").to_string();
        assert!(sentence("postgres://u:p@h:6543/x").contains("transaction pooler"));
        assert!(sentence("mysql://u:p@h/x").contains("postgres://"));
        assert!(sentence("").contains("postgres://"));
        assert!(sentence("postgres://u:p@ss@h/x").contains("%40"));
        assert!(sentence("postgres://u:p@h:port/x").contains("cannot be read"));
        assert!(sentence("postgres://u:p@a,b/x").contains("several hosts"));
        assert!(sentence("postgres://u:p@h/x?sslmode=maybe").contains("sslmode"));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_password_leaks(
            url in "(postgres://)?[a-z]{0,3}:?.{0,12}@?[a-z:0-9/?=&%]{0,20}", secret in "[A-Z]{12}",
        ) {
            let _ = DatabaseUrl::parse(&url);
            for url in [format!("postgres://u:{secret}@h:x/d"), format!("postgres://u:{secret}@h:1/d?{secret}")] {
                let shown = match DatabaseUrl::parse(&url) {
                    Ok(url) => format!("{url} {url:?}"),
                    Err(e) => format!("{e} {e:?}"),
                };
                prop_assert!(!shown.contains(&secret));
            }
        }
    }
}
