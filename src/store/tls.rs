//! TLS to the database: rustls with ring, and as much verification as the URL asks for.

use std::error::Error as StdError;
use std::path::PathBuf;
use std::sync::{Arc, Once};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::StoreError;
use super::url::{DatabaseUrl, SslMode};
use postbell_client::certificates::{Judge, Judged, PemFile, Shown, provider, system_roots};

/// Makes the connector that speaks TLS as the URL asks.
///
/// # Errors
/// The file of `sslrootcert` cannot be read or holds no certificate.
pub(super) fn connector(url: &DatabaseUrl) -> Result<MakeRustlsConnect, StoreError> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| StoreError::refused(format!("TLS cannot be set up: {e}")))?;
    let config = match url.ssl_mode() {
        SslMode::VerifyFull => builder.with_root_certificates(roots(url.ssl_root_cert())?),
        SslMode::VerifyCa => {
            let roots = Arc::new(roots(url.ssl_root_cert())?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                .build()
                .map_err(|e| StoreError::refused(format!("no issuer can be trusted: {e}")))?;
            let verifier = Judged { judge: AnyName(verifier), provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier))
        }
        mode => {
            if mode == SslMode::Require {
                warn_unverified(url);
            }
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Judged { judge: Anybody, provider }))
        }
    };
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

/// Warns once in a process, since each connection of the pool would warn again.
fn warn_unverified(url: &DatabaseUrl) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            host = url.host(),
            "sslmode=require encrypts but does NOT check who answers: whoever sits in between can read \
             everything. Use sslmode=verify-full, with sslrootcert=/path/to/ca.crt where the issuer is private"
        );
    });
}

fn roots(file: Option<&PathBuf>) -> Result<RootCertStore, StoreError> {
    if let Some(path) = file {
        let roots = PemFile::read(path).and_then(|file| file.roots());
        return roots.map_err(|e| StoreError::refused(format!("sslrootcert {e}")));
    }
    let store = system_roots();
    if store.is_empty() {
        return Err(StoreError::refused(
            "this system has no trusted certificates (install ca-certificates), and the database URL \
             names none by sslrootcert",
        ));
    }
    Ok(store)
}

/// Returns the sentence for a TLS failure, or `None` if the error is not one.
pub(super) fn sentence(error: &tokio_postgres::Error) -> Option<String> {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(e) = next {
        let inner = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let tls = e.downcast_ref().or_else(|| inner.and_then(|i| i.downcast_ref::<rustls::Error>()));
        if let Some(tls) = tls {
            return Some(tls_sentence(tls));
        }
        if e.to_string().contains("server does not support TLS") {
            return Some(
                "the server offers no TLS; if this network is yours, add sslmode=disable to the database URL"
                    .to_owned(),
            );
        }
        next = e.source();
    }
    None
}

fn tls_sentence(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "the server's certificate comes from an issuer that is not trusted here. Many hosts use their own: \
             for Supabase download it in the dashboard (Project Settings, Database, SSL Configuration) and add \
             sslrootcert=/path/to/prod-ca.crt to the database URL"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the server's certificate is made out to another host: check the host in the database URL, or use \
              sslmode=verify-ca if the name is known to differ"
            .to_owned(),
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => "the server's certificate has expired; check this machine's clock, then the server's".to_owned(),
        other => format!("TLS with the database failed: {other}"),
    }
}

/// Verifies the chain but not the name, for `verify-ca`.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl Judge for AnyName {
    fn judge(&self, shown: &Shown<'_>) -> Result<(), rustls::Error> {
        let Shown { certificate, intermediates, name, ocsp, now } = shown;
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, *now) {
            // The name is checked last, after the chain was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

/// Verifies only that the peer holds the key of the certificate that it shows, for `require`.
#[derive(Debug)]
struct Anybody;

impl Judge for Anybody {
    fn judge(&self, _: &Shown<'_>) -> Result<(), rustls::Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
