//! Every setting of the broker, with its default, unit and bounds: a pure function of strings.
//!
//! [`SETTINGS`] is the only list; the options of `postbell serve` and the environment are made from it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::store::agents::{TokenHash, hash};
use crate::store::alerts::AlertTimes;
use crate::store::{DatabaseUrl, Target};
use postbell_client::certificates::shown;
use postbell_engine::guard::Places;
use postbell_engine::retry::RetryPolicy;
use postbell_engine::router::Routing;

/// The fewest characters of an operator's or a viewer's token.
pub const TOKEN_CHARS_MIN: usize = 20;
/// The exit status of a bad setting or command line (EX_USAGE of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// A setting: an environment variable, and an option of `postbell serve`.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The environment variable that sets it.
    pub env: &'static str,
    /// The option, without its dashes.
    pub flag: &'static str,
    /// The value if none is given; empty means none.
    pub default: &'static str,
    /// The effect, with unit and bounds.
    pub help: &'static str,
}

macro_rules! settings {
    ($($name:ident: $env:literal, $flag:literal, $default:literal, $help:literal;)*) => {
        $(#[doc = $help] pub const $name: Setting =
            Setting { env: $env, flag: $flag, default: $default, help: $help };)*
        /// Every setting.
        pub const SETTINGS: &[Setting] = &[$($name),*];
    };
}

settings! {
    DATABASE_URL: "DATABASE_URL", "database-url", "",
        "The database, as postgres://user:password@host:5432/database. A direct connection or a session pooler: \
         LISTEN does not work on a transaction pooler [or POSTGRES_URL_NON_POOLING]";
    DATABASE_URL_DIRECT: "POSTGRES_URL_NON_POOLING", "database-url-direct", "",
        "The database where DATABASE_URL is not set, under the name that Vercel and Supabase give it";
    SCHEMA: "POSTBELL_SCHEMA", "schema", "public",
        "The schema of agent_messages and agent_registry";
    LISTEN: "POSTBELL_LISTEN", "listen", "127.0.0.1:7440",
        "Where agents connect, as address:port";
    HTTP: "POSTBELL_HTTP", "http", "127.0.0.1:9440",
        "Where the status page, /metrics and /health are served, as address:port";
    PORT: "PORT", "port", "",
        "Set by platforms such as Railway: serves HTTP on port PORT of every address instead";
    NAME: "POSTBELL_NAME", "name", "postbell",
        "The broker's name, 1 to 100 characters; agents read the name in the welcome";
    ADVERTISE: "POSTBELL_ADVERTISE", "advertise", "",
        "The address that other brokers reach this one's agents' port by, as host:port; where not set the listening address, \
         or, where that is every address, the one that the connections to the database leave from";
    POOL_SIZE: "POSTBELL_POOL_SIZE", "pool-size", "4",
        "Shared database connections, 2 to 50; the tail, the bell, the settler, its marks and the lease have one more each, and the router of a busy mesh";
    ACK_DEADLINE: "POSTBELL_ACK_DEADLINE_SECONDS", "ack-deadline-seconds", "30",
        "How long an agent has to acknowledge a delivery before it counts as failed, 1 to 86400 s";
    MAX_ATTEMPTS: "POSTBELL_MAX_ATTEMPTS", "max-attempts", "10",
        "After this many failed attempts a delivery is a dead letter, 1 to 1000";
    RETRY_BASE: "POSTBELL_RETRY_BASE_MS", "retry-base-ms", "1000",
        "The bound of the first retry's delay, doubled at each attempt, 1 to 3600000 ms";
    RETRY_CAP: "POSTBELL_RETRY_CAP_SECONDS", "retry-cap-seconds", "600",
        "No retry waits longer, 1 to 86400 s";
    RETENTION: "POSTBELL_RETENTION_DAYS", "retention-days", "7",
        "Processed, failed and expired messages are removed after so many days, 0 to 36500; 0 keeps them. Dead letters stay";
    OFFLINE_ALERT: "POSTBELL_OFFLINE_ALERT_SECONDS", "offline-alert-seconds", "15",
        "An agent that went without a goodbye and has been away for so long is an alert in agent_alerts, 1 to 86400 s";
    ESCALATE: "POSTBELL_ESCALATE_SECONDS", "escalate-seconds", "60",
        "An alert that nobody has acknowledged for so long goes to the orchestrators, 1 to 86400 s";
    DRAIN: "POSTBELL_DRAIN_SECONDS", "drain-seconds", "20",
        "How long a stopping broker waits for what is in flight, 0 to 3600 s";
    ROUTING: "POSTBELL_ROUTING", "routing", "never",
        "When this broker makes deliveries after the commit, in place of the trigger: never, auto (while the mesh is busy), always";
    ALLOW_PLAINTEXT: "POSTBELL_ALLOW_PLAINTEXT", "allow-plaintext", "0",
        "1 lets agents on other machines send their token unencrypted; 0 refuses them";
    UNAUTHENTICATED: "POSTBELL_UNAUTHENTICATED_MAX", "unauthenticated-max", "1000",
        "Connections at once that have not shown their token yet, 1 to 20000; more are told to come again";
    UNAUTHENTICATED_PER_ADDRESS: "POSTBELL_UNAUTHENTICATED_PER_ADDRESS_MAX", "unauthenticated-per-address-max", "256",
        "The same from one address (of IPv6: one /64), 1 to 20000. Behind a proxy all agents have one address";
    STATUS: "POSTBELL_STATUS", "status", "local",
        "Who sees the status page without a token: local (who asks on this machine), public (everybody who reaches the port; \
         never payloads or reasons), token (nobody), off (there is none)";
    OPERATOR_TOKEN: "POSTBELL_OPERATOR_TOKEN", "operator-token", "",
        "A caller with this token sees the whole status page and may redrive and purge dead letters; at least 20 characters";
    VIEWER_TOKEN: "POSTBELL_VIEWER_TOKEN", "viewer-token", "",
        "A caller with this token sees the whole status page and changes nothing; at least 20 characters";
    TLS_CERT: "POSTBELL_TLS_CERT", "tls-cert", "",
        "The certificate of the agents' port with its chain, a PEM file or its text: the port then speaks TLS only. A file \
         is read again when it changes";
    TLS_KEY: "POSTBELL_TLS_KEY", "tls-key", "",
        "The private key of POSTBELL_TLS_CERT, a PEM file or its text, not encrypted";
    TLS_CLIENT_CA: "POSTBELL_TLS_CLIENT_CA", "tls-client-ca", "",
        "Agents must also show a certificate of a CA in this PEM file; their token is asked for all the same";
    SPANS: "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "spans-url", "",
        "Where spans of messages with a traceparent header are sent, such as http://127.0.0.1:4318/v1/traces; only where \
         postbell was built with the feature otel";
}

/// A setting is wrong. The sentence names the setting and says which values are allowed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// A fault outside the broker's own settings.
    pub fn new(sentence: impl Into<String>) -> Self {
        Self(sentence.into())
    }
}

/// The values of all settings.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "SETTINGS describes each")]
pub struct Config {
    pub database: Target,
    pub listen: SocketAddr,
    pub http: SocketAddr,
    pub name: String,
    pub advertise: Option<String>,
    pub pool_size: u32,
    pub ack_deadline: Duration,
    pub retry: RetryPolicy,
    /// `None` keeps messages for ever.
    pub retention: Option<Duration>,
    pub alerts: AlertTimes,
    pub drain: Duration,
    pub routing: Routing,
    pub allow_plaintext: bool,
    pub unauthenticated: Places,
    /// `None` serves agents in clear.
    pub tls: Option<TlsFiles>,
    pub spans_url: Option<String>,
    pub status: StatusMode,
    pub tokens: OperatorTokens,
}

/// Who sees the status page without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "SETTINGS describes each")]
pub enum StatusMode {
    Local,
    Public,
    Token,
    Off,
}

/// The tokens of operators and viewers, kept as SHA-256 because a log may show a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "SETTINGS describes each")]
pub struct OperatorTokens {
    pub operator: Option<TokenHash>,
    pub viewer: Option<TokenHash>,
}

/// The files of the agents' port's certificate.
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "SETTINGS describes each")]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: Option<PathBuf>,
}

// Written by hand, because a path may hold the text of the key itself.
impl fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsFiles").field("certificate", &shown(&self.certificate)).finish_non_exhaustive()
    }
}

impl Config {
    /// Reads every setting; `value` returns the string of an environment variable, if that is set.
    ///
    /// # Errors
    /// Names the first setting that is wrong, in a sentence.
    pub fn parse(value: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let get = trimmed(value);
        let number = |setting: Setting, low: u64, high: u64| whole_number(&get, setting, low, high);
        let retention_days = number(RETENTION, 0, 36_500)?;
        Ok(Self {
            database: target(&get)?,
            listen: address(&get, LISTEN)?,
            http: http_address(&get)?,
            name: name(get(NAME))?,
            advertise: Some(get(ADVERTISE)).filter(|a| !a.is_empty()),
            spans_url: Some(get(SPANS)).filter(|url| !url.is_empty()),
            pool_size: number(POOL_SIZE, 2, 50)? as u32,
            ack_deadline: Duration::from_secs(number(ACK_DEADLINE, 1, 86_400)?),
            retry: RetryPolicy {
                base: Duration::from_millis(number(RETRY_BASE, 1, 3_600_000)?),
                cap: Duration::from_secs(number(RETRY_CAP, 1, 86_400)?),
                attempts_max: number(MAX_ATTEMPTS, 1, 1_000)? as u32,
            },
            retention: (retention_days > 0).then(|| Duration::from_secs(retention_days * 86_400)),
            alerts: AlertTimes {
                offline: Duration::from_secs(number(OFFLINE_ALERT, 1, 86_400)?),
                escalate: Duration::from_secs(number(ESCALATE, 1, 86_400)?),
            },
            drain: Duration::from_secs(number(DRAIN, 0, 3_600)?),
            routing: routing(&get(ROUTING))?,
            allow_plaintext: flag(ALLOW_PLAINTEXT, &get(ALLOW_PLAINTEXT))?,
            unauthenticated: Places {
                total: number(UNAUTHENTICATED, 1, 20_000)? as usize,
                per_address: number(UNAUTHENTICATED_PER_ADDRESS, 1, 20_000)? as usize,
            },
            tls: tls_files(&get)?,
            status: status_mode(&get(STATUS))?,
            tokens: operator_tokens(&get)?,
        })
    }
}

/// Reads only the address of metrics and health, for `health`.
///
/// # Errors
/// See [`Config::parse`].
pub fn http(value: impl Fn(&str) -> Option<String>) -> Result<SocketAddr, ConfigError> {
    http_address(&trimmed(value))
}

/// Reads only the database, for `migrate`, `agent`, `dead` and `doctor`.
///
/// # Errors
/// See [`Config::parse`].
pub fn database(value: impl Fn(&str) -> Option<String>) -> Result<Target, ConfigError> {
    target(&trimmed(value))
}

/// Returns a function for a setting's string, or its default if the string is missing or blank.
fn trimmed(value: impl Fn(&str) -> Option<String>) -> impl Fn(Setting) -> String {
    move |setting| {
        let given = value(setting.env).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        given.unwrap_or_else(|| setting.default.to_owned())
    }
}

fn whole_number(
    get: &impl Fn(Setting) -> String,
    setting: Setting,
    low: u64,
    high: u64,
) -> Result<u64, ConfigError> {
    let text = get(setting);
    let parsed = text.parse::<u64>().ok().filter(|n| (low..=high).contains(n));
    parsed.ok_or_else(|| {
        let env = setting.env;
        ConfigError(format!("{env} must be a whole number from {low} to {high}, not {text:?}"))
    })
}

fn address(get: &impl Fn(Setting) -> String, setting: Setting) -> Result<SocketAddr, ConfigError> {
    let text = get(setting);
    text.parse::<SocketAddr>().map_err(|_| {
        let env = setting.env;
        ConfigError(format!(
            "{env} must be an address and a port such as 127.0.0.1:7440 or [::]:7440, not {text:?}"
        ))
    })
}

fn http_address(get: &impl Fn(Setting) -> String) -> Result<SocketAddr, ConfigError> {
    match get(PORT) {
        port if port.is_empty() => address(get, HTTP),
        _ => Ok(SocketAddr::from(([0u16; 8], whole_number(get, PORT, 1, 65_535)? as u16))),
    }
}

fn target(get: &impl Fn(Setting) -> String) -> Result<Target, ConfigError> {
    let url = [DATABASE_URL, DATABASE_URL_DIRECT].into_iter().map(get).find(|url| !url.is_empty());
    let Some(url) = url else {
        return Err(ConfigError(
            "DATABASE_URL is not set: give the database as postgres://user:password@host:5432/database, or try \
             `postbell dev`, which brings its own"
                .to_owned(),
        ));
    };
    let url = DatabaseUrl::parse(&url).map_err(|e| ConfigError(format!("DATABASE_URL: {e}")))?;
    let schema = get(SCHEMA);
    if schema.is_empty() || schema.len() > 63 || schema.contains('\0') {
        return Err(ConfigError("POSTBELL_SCHEMA must be a schema's name, 1 to 63 bytes".to_owned()));
    }
    Ok(Target::new(url, &schema))
}

fn tls_files(get: &impl Fn(Setting) -> String) -> Result<Option<TlsFiles>, ConfigError> {
    let path = |setting| Some(PathBuf::from(get(setting))).filter(|path| !path.as_os_str().is_empty());
    let without = |given: Setting, missing: Setting| {
        Err(ConfigError(format!("{} is of no use without {}: set both or neither", given.env, missing.env)))
    };
    match (path(TLS_CERT), path(TLS_KEY), path(TLS_CLIENT_CA)) {
        (Some(certificate), Some(key), client_ca) => Ok(Some(TlsFiles { certificate, key, client_ca })),
        (Some(_), None, _) => without(TLS_CERT, TLS_KEY),
        (None, Some(_), _) => without(TLS_KEY, TLS_CERT),
        (None, None, Some(_)) => without(TLS_CLIENT_CA, TLS_CERT),
        (None, None, None) => Ok(None),
    }
}

fn routing(text: &str) -> Result<Routing, ConfigError> {
    match text {
        "auto" => Ok(Routing::Auto),
        "always" => Ok(Routing::Always),
        "never" => Ok(Routing::Never),
        _ => Err(ConfigError(format!("POSTBELL_ROUTING must be never, auto or always, not {text:?}"))),
    }
}

fn status_mode(text: &str) -> Result<StatusMode, ConfigError> {
    Ok(match text {
        "local" => StatusMode::Local,
        "public" => StatusMode::Public,
        "token" => StatusMode::Token,
        "off" => StatusMode::Off,
        _ => {
            return Err(ConfigError(format!(
                "POSTBELL_STATUS must be local, public, token or off, not {text:?}"
            )));
        }
    })
}

/// Refuses short tokens, which can be guessed, and one token for both, which would make every viewer an operator.
fn operator_tokens(get: &impl Fn(Setting) -> String) -> Result<OperatorTokens, ConfigError> {
    let token = |setting: Setting| match get(setting) {
        token if token.is_empty() => Ok(None),
        token if token.chars().count() < TOKEN_CHARS_MIN => Err(ConfigError(format!(
            "{} must have at least {TOKEN_CHARS_MIN} characters: `openssl rand -hex 24` makes one",
            setting.env
        ))),
        token => Ok(Some(hash(&token))),
    };
    let tokens = OperatorTokens { operator: token(OPERATOR_TOKEN)?, viewer: token(VIEWER_TOKEN)? };
    if tokens.operator.is_some() && tokens.operator == tokens.viewer {
        return Err(ConfigError("POSTBELL_OPERATOR_TOKEN and POSTBELL_VIEWER_TOKEN must differ".to_owned()));
    }
    Ok(tokens)
}

fn name(name: String) -> Result<String, ConfigError> {
    match name.chars().count() {
        1..=100 if !name.chars().any(char::is_control) => Ok(name),
        _ => Err(ConfigError("POSTBELL_NAME must have 1 to 100 printable characters".to_owned())),
    }
}

fn flag(setting: Setting, text: &str) -> Result<bool, ConfigError> {
    match text {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(ConfigError(format!("{} must be 1 or 0, not {text:?}", setting.env))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut all = vec![("DATABASE_URL", "postgres://u:p@localhost/d")];
        all.extend(pairs);
        Config::parse(|env| all.iter().rev().find(|(k, _)| *k == env).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = parse(&[]).expect("defaults");
        assert_eq!(config.listen.to_string(), "127.0.0.1:7440");
        assert_eq!(config.http.to_string(), "127.0.0.1:9440");
        assert_eq!(config.ack_deadline, Duration::from_secs(30));
        assert_eq!(config.retry, RetryPolicy::default());
        assert_eq!(config.retention, Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(config.alerts.offline, Duration::from_secs(15));
        assert_eq!(config.alerts.escalate, Duration::from_secs(60));
        assert!(!config.allow_plaintext);
        assert_eq!(config.unauthenticated, Places { total: 1_000, per_address: 256 });
        assert_eq!(&*config.database.schema, "public");
    }

    #[test]
    fn a_platforms_port_opens_http_to_all() {
        assert_eq!(parse(&[("PORT", "8080")]).expect("port").http.to_string(), "[::]:8080");
    }

    #[test]
    fn the_direct_url_serves_where_there_is_no_other() {
        let direct = ("POSTGRES_URL_NON_POOLING", "postgres://v@localhost/other");
        let config = parse(&[("DATABASE_URL", ""), direct]).expect("direct");
        assert_eq!(config.database.url.to_string(), "v@localhost:5432/other");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let sentence = |k, v| parse(&[(k, v)]).expect_err("refused").to_string();
        assert!(sentence("DATABASE_URL", "").contains("DATABASE_URL is not set"));
        assert!(sentence("DATABASE_URL", "postgres://u@h:6543/d").contains("transaction pooler"));
        assert!(sentence("POSTBELL_LISTEN", "7440").contains("POSTBELL_LISTEN must be an address"));
        assert!(sentence("POSTBELL_POOL_SIZE", "1").contains("from 2 to 50"));
        assert!(sentence("POSTBELL_ACK_DEADLINE_SECONDS", "0").contains("from 1 to 86400"));
        assert!(sentence("POSTBELL_ALLOW_PLAINTEXT", "maybe").contains("1 or 0"));
        assert!(sentence("POSTBELL_NAME", "a\nb").contains("printable"));
        assert!(sentence("POSTBELL_TLS_CERT", "c.pem").contains("without POSTBELL_TLS_KEY"));
        assert!(sentence("POSTBELL_TLS_KEY", "k.pem").contains("without POSTBELL_TLS_CERT"));
        assert!(sentence("POSTBELL_TLS_CLIENT_CA", "ca.pem").contains("without POSTBELL_TLS_CERT"));
        assert!(sentence("PORT", "0").contains("PORT must be"));
        assert!(sentence("POSTBELL_STATUS", "yes").contains("local, public, token or off"));
        let short = sentence("POSTBELL_OPERATOR_TOKEN", "hunter2");
        assert!(short.contains("at least 20") && !short.contains("hunter2"));
        assert!(!sentence("DATABASE_URL", "postgres://u:hunter2@h:x/d").contains("hunter2"));
    }

    #[test]
    fn a_key_that_is_given_as_text_is_not_shown() {
        let text = |what| format!("-----BEGIN {what}-----\nsecret\n-----END {what}-----");
        let (certificate, key) = (text("CERTIFICATE"), text("PRIVATE KEY"));
        let config = parse(&[("POSTBELL_TLS_CERT", &certificate), ("POSTBELL_TLS_KEY", &key)]).expect("both");
        assert!(!format!("{config:?}").contains("secret"), "{config:?}");
    }

    #[test]
    fn tokens_are_kept_as_their_hashes_and_differ() {
        let (one, other) = ("one token of an operator", "another one for viewers");
        let both = |viewer| parse(&[("POSTBELL_OPERATOR_TOKEN", one), ("POSTBELL_VIEWER_TOKEN", viewer)]);
        let config = both(other).expect("two tokens");
        assert_eq!(config.tokens.viewer, Some(hash(other)));
        assert!(!format!("{config:?}").contains("token of an"));
        assert!(both(one).expect_err("the same").to_string().contains("must differ"));
        assert_eq!(parse(&[]).expect("none").tokens, OperatorTokens::default());
    }

    #[test]
    fn every_default_is_within_its_bounds_and_named_once() {
        let mut names: Vec<_> = SETTINGS.iter().flat_map(|s| [s.env, s.flag]).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
