//! TLS on the agents' port: the broker's certificate, its renewal without a restart, and the handshake.
//!
//! The files are read again every few seconds and compared whole: times of change are coarse, and in containers
//! the files are links that are swapped. A new session gets the new certificate; open sessions keep theirs.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_cert::der::Decode;

use crate::base::moment::rfc3339_seconds;
use crate::broker::config::{TLS_CERT, TLS_CLIENT_CA, TLS_KEY, TlsFiles};
use crate::watch::metrics::Metrics;
use postbell_client::certificates::{FileFault, Fingerprint, PemFile, provider};

/// How often the files are read again.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a client whose handshake failed may take to read the alert.
const LINGER: Duration = Duration::from_secs(1);
/// The longest hello in clear, which is read before its refusal: closing on unread bytes would drop the
/// refusal.
const HELLO_BYTES: usize = postbell_client::protocol::limits::HELLO_LINE_BYTES_MAX;
/// The first byte of every TLS connection: a record of the handshake's type.
const HANDSHAKE_RECORD: u8 = 0x16;

/// The certificate cannot serve. The sentence names the setting and the file, and says why.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct TlsError(String);

/// TLS of one port; clones share the certificate.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    files: TlsFiles,
    current: Arc<watch::Sender<Identity>>,
    shown: Arc<watch::Sender<Fingerprint>>,
}

/// Why a connection became no session.
pub(super) enum NotAccepted {
    /// The client does not speak TLS.
    Plain(TcpStream),
    /// The handshake took too long.
    Late,
    /// The client left before its first byte.
    Gone,
    /// The two sides do not agree, or one does not trust the other.
    Failed(io::Error, TcpStream),
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file cannot be read, or does not serve.
    pub(crate) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let identity = Contents::read(files).and_then(Identity::new)?;
        let shown = Arc::new(watch::Sender::new(identity.fingerprint));
        Ok(Self { files: files.clone(), current: Arc::new(watch::Sender::new(identity)), shown })
    }

    /// The SHA-256 of the broker's current certificate, which clients and other brokers pin, and each change of it.
    pub(crate) fn shown(&self) -> watch::Receiver<Fingerprint> {
        self.shown.subscribe()
    }

    /// Follows changes of the files. Files that do not serve are logged once and change nothing.
    pub(crate) async fn follow(self, metrics: Metrics) {
        self.current.borrow().announce("the agents' port speaks TLS");
        let mut looked_at = Ok(self.current.borrow().contents.clone());
        loop {
            metrics.tls_expires.set(self.current.borrow().expires_s());
            sleep(LOOK_EVERY).await;
            let files = self.files.clone();
            let Ok(found) = tokio::task::spawn_blocking(move || Contents::read(&files)).await else {
                continue;
            };
            if found == looked_at {
                continue;
            }
            match found.clone().and_then(Identity::new) {
                Ok(identity) => {
                    identity.announce("the certificate of the agents' port is renewed");
                    self.shown.send_replace(identity.fingerprint);
                    self.current.send_replace(identity);
                }
                Err(e) => {
                    metrics.tls_reload_failures.inc();
                    tracing::warn!(error = %e, "the new certificate is of no use: the old one stays");
                }
            }
            looked_at = found;
        }
    }

    /// Does the handshake, which must end before `by`. rustls holds at most 64 KiB of it.
    pub(super) async fn accept(
        &self,
        socket: TcpStream,
        by: Instant,
    ) -> Result<TlsStream<TcpStream>, NotAccepted> {
        let mut first = [0];
        match timeout_at(by, socket.peek(&mut first)).await {
            Err(_) => return Err(NotAccepted::Late),
            Ok(Ok(0) | Err(_)) => return Err(NotAccepted::Gone),
            Ok(Ok(_)) if first[0] != HANDSHAKE_RECORD => {
                let _ = socket.try_read(&mut [0; HELLO_BYTES]);
                return Err(NotAccepted::Plain(socket));
            }
            Ok(Ok(_)) => {}
        }
        let handshake = self.current.borrow().acceptor.accept(socket).into_fallible();
        match timeout_at(by, handshake).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err((e, socket))) => Err(NotAccepted::Failed(e, socket)),
            Err(_) => Err(NotAccepted::Late),
        }
    }
}

/// Lets the client read the alert that ended the handshake: closing on unread bytes would drop the alert.
pub(super) async fn linger(mut socket: TcpStream) {
    let read_out = async {
        let _ = socket.shutdown().await;
        let mut sink = [0; 1024];
        while matches!(socket.read(&mut sink).await, Ok(n) if n > 0) {}
    };
    let _ = timeout(LINGER, read_out).await;
}

/// The contents of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Contents {
    certificate: PemFile,
    key: PemFile,
    client_ca: Option<PemFile>,
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let client_ca = files.client_ca.as_deref().map(PemFile::read).transpose();
        Ok(Self {
            certificate: PemFile::read(&files.certificate).map_err(of(TLS_CERT.env))?,
            key: PemFile::read(&files.key).map_err(of(TLS_KEY.env))?,
            client_ca: client_ca.map_err(of(TLS_CLIENT_CA.env))?,
        })
    }
}

fn of(setting: &'static str) -> impl Fn(FileFault) -> TlsError {
    move |fault| TlsError(format!("{setting} {fault}"))
}

/// The certificate that the broker shows, made from the files.
struct Identity {
    acceptor: TlsAcceptor,
    fingerprint: Fingerprint,
    /// `None` if the certificate's date cannot be read.
    expires: Option<SystemTime>,
    contents: Contents,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.fingerprint)
    }
}

impl Identity {
    fn new(contents: Contents) -> Result<Self, TlsError> {
        let chain = contents.certificate.certificates().map_err(of(TLS_CERT.env))?;
        let key = contents.key.key().map_err(of(TLS_KEY.env))?;
        let (fingerprint, expires) = (Fingerprint::of(&chain[0]), expiry(&chain[0]));
        let builder = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError(format!("TLS cannot be set up: {e}")))?;
        let builder = match &contents.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let roots = Arc::new(ca.roots().map_err(of(TLS_CLIENT_CA.env))?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
                let fault = |e| of(TLS_CLIENT_CA.env)(ca.fault(format!("no issuer can be trusted: {e}")));
                builder.with_client_cert_verifier(verifier.map_err(fault)?)
            }
        };
        let config = builder.with_single_cert(chain, key).map_err(|e| {
            let what = format!("the key does not serve for the certificate of {}: {e}", TLS_CERT.env);
            of(TLS_KEY.env)(contents.key.fault(what))
        })?;
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint, expires, contents })
    }

    fn announce(&self, what: &str) {
        let expires = self.expires.map_or("unknown".to_owned(), rfc3339_seconds);
        tracing::info!(fingerprint = %self.fingerprint, %expires, "{what}");
        if self.expires.is_some_and(|at| at < SystemTime::now()) {
            tracing::warn!(%expires, "the certificate has expired: clients that do not pin it refuse it");
        }
    }

    fn expires_s(&self) -> i64 {
        let since_1970 = self.expires.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        since_1970.map_or(0, |d| d.as_secs() as i64)
    }
}

/// The moment at which a certificate expires; `None` if that cannot be read.
pub(crate) fn expiry(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let certificate = x509_cert::Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_system_time())
}
