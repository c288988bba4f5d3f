//! TLS to the broker: the certificates that the client trusts and shows, and the sentences for faults.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig, InvalidMessage, OtherError};
use tokio_rustls::TlsConnector;

use super::ClientError;
use super::address::Address;
use crate::certificates::{
    FileFault, Fingerprint, Judge, Judged, PemFile, Shown, provider, shown, system_roots,
};

/// The certificates by which the broker is verified, and by which the client is.
#[derive(Clone, Default)]
pub(super) struct Trust {
    /// The CA that must have issued the broker's certificate; the system's roots if none is given.
    pub(super) ca: Option<PathBuf>,
    /// The fingerprint of the broker's certificate. Without a CA, the fingerprint alone is enough.
    pub(super) pin: Option<String>,
    /// The files of the client's certificate and its key.
    pub(super) shown: Option<(PathBuf, PathBuf)>,
}

// Written by hand: a path may be the key's own text, which must not be shown.
impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ca = self.ca.as_deref().map(shown);
        f.debug_struct("Trust").field("ca", &ca).field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// The settings of a handshake, and the name that the broker's certificate must have.
pub(super) type Prepared = (TlsConnector, ServerName<'static>);

impl Trust {
    pub(super) fn is_empty(&self) -> bool {
        self.ca.is_none() && self.pin.is_none() && self.shown.is_none()
    }

    /// The connector and the name for a connection.
    pub(super) async fn prepare(&self, address: &Address) -> Result<Prepared, ClientError> {
        let host = address.host();
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ClientError::Url(format!("{host:?} is no host name that a certificate has")))?;
        let trust = self.clone();
        // Blocking, because it reads files, those of the system's roots among them.
        let config = tokio::task::spawn_blocking(move || trust.config()).await.map_err(cannot_set_up)??;
        Ok((TlsConnector::from(Arc::new(config)), name))
    }

    /// Reads the files anew each time, because they are renewed while a client lives.
    fn config(&self) -> Result<ClientConfig, ClientError> {
        let verifier: Arc<dyn ServerCertVerifier> = match &self.pin {
            None => self.issuer()?,
            Some(pin) => {
                let pin = pin.parse().map_err(ClientError::Invalid)?;
                let issuer = self.ca.is_some().then(|| self.issuer()).transpose()?;
                Arc::new(Judged { judge: Pinned { pin, issuer }, provider: provider() })
            }
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(cannot_set_up)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let Some((certificate, key)) = &self.shown else { return Ok(builder.with_no_client_auth()) };
        let (certificate, key) = (read(certificate)?, read(key)?);
        let chain = certificate.certificates().map_err(invalid)?;
        let key_of_it = key.key().map_err(invalid)?;
        builder.with_client_auth_cert(chain, key_of_it).map_err(|e| {
            invalid(key.fault(format!("the key does not serve for the client's certificate: {e}")))
        })
    }

    /// The verifier of the chain, the dates and the name.
    fn issuer(&self) -> Result<Arc<WebPkiServerVerifier>, ClientError> {
        let roots = match &self.ca {
            Some(path) => read(path)?.roots().map_err(invalid)?,
            None => system_roots(),
        };
        if roots.is_empty() {
            let sentence = "this system has no trusted certificates (install ca-certificates): give the \
                            broker's CA (POSTBELL_CA, ca_file) or pin its certificate (POSTBELL_PIN, pin_sha256)";
            return Err(ClientError::Invalid(sentence.to_owned()));
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(cannot_set_up)
    }
}

fn read(path: &Path) -> Result<PemFile, ClientError> {
    PemFile::read(path).map_err(invalid)
}

fn invalid(fault: FileFault) -> ClientError {
    ClientError::Invalid(fault.to_string())
}

fn cannot_set_up(e: impl std::fmt::Display) -> ClientError {
    ClientError::Invalid(format!("TLS cannot be set up: {e}"))
}

/// Accepts this certificate and no other; if a CA is given as well, the CA must have issued it.
#[derive(Debug)]
struct Pinned {
    pin: Fingerprint,
    issuer: Option<Arc<WebPkiServerVerifier>>,
}

impl Judge for Pinned {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), rustls::Error> {
        let Shown { certificate, intermediates, name, ocsp, now } = shown;
        let fingerprint = Fingerprint::of(certificate);
        if fingerprint != self.pin {
            let fault = OtherError(Arc::new(NotPinned(fingerprint)));
            return Err(rustls::Error::InvalidCertificate(CertificateError::Other(fault)));
        }
        let Some(issuer) = &self.issuer else { return Ok(()) };
        issuer.verify_server_cert(certificate, intermediates, name, ocsp, *now).map(|_| ())
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "its certificate has the fingerprint {0}, which is not the pinned one. Where it was renewed, pin the new one \
     that the broker logs; otherwise somebody sits in between"
)]
struct NotPinned(Fingerprint);

/// The sentence for a fault of TLS, with the advice; `None` if the fault is another.
pub(super) fn sentence(fault: &io::Error) -> Option<String> {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext,
        Other, UnknownIssuer,
    };
    let error = fault.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it speaks no TLS there: set POSTBELL_TLS_CERT and POSTBELL_TLS_KEY on the broker, or connect by \
             tcp:// where the connection does not leave this machine"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(UnknownIssuer) => {
            "its certificate comes from an issuer that is not trusted here: give its CA (POSTBELL_CA, ca_file) \
             or pin the fingerprint that the broker logs (POSTBELL_PIN, pin_sha256)"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "its certificate is made out to another host: connect by a name that is in it, or pin its fingerprint \
             (POSTBELL_PIN, pin_sha256)"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(
            Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. },
        ) => "its certificate has expired or is not valid yet; check this machine's clock, then the broker's \
              certificate"
            .to_owned(),
        rustls::Error::InvalidCertificate(Other(OtherError(fault))) if fault.is::<NotPinned>() => {
            fault.to_string()
        }
        // A certificate that is its own CA arrives here only as a word of the library.
        rustls::Error::InvalidCertificate(Other(_)) => {
            "its certificate cannot be verified by a CA: one that is its own, as `openssl req -x509` makes, never can. \
             Where it is the broker's, pin the fingerprint that the broker logs (POSTBELL_PIN, pin_sha256)"
                .to_owned()
        }
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it asks for a certificate of the client's: give one of its POSTBELL_TLS_CLIENT_CA, with its key \
             (POSTBELL_CLIENT_CERT and _KEY, client_certificate)"
                .to_owned()
        }
        rustls::Error::AlertReceived(
            AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown,
        ) => format!("it does not take the certificate of this client: {error}"),
        other => other.to_string(),
    })
}
