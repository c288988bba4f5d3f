//! TLS to the database: rustls with ring, and as much verification as the URL asks for.

use std::error::Error as StdError;
use std::path::Path;
use std::sync::{Arc, Once};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::StoreError;
use super::url::{DatabaseUrl, SslMode};

/// What [`super::connection`] needs to speak TLS as the URL asks.
///
/// # Errors
/// The file of `sslrootcert` cannot be read or holds no certificate.
pub(super) fn connector(url: &DatabaseUrl) -> Result<MakeRustlsConnect, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| StoreError::refused(format!("TLS cannot be set up: {e}")))?;
    let config = match url.ssl_mode() {
        SslMode::VerifyFull => builder.with_root_certificates(roots(url.ssl_root_cert())?),
        SslMode::VerifyCa => {
            let verifier =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots(url.ssl_root_cert())?), provider)
                    .build()
                    .map_err(|e| StoreError::refused(format!("no issuer can be trusted: {e}")))?;
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName(verifier)))
        }
        mode => {
            if mode == SslMode::Require {
                warn_unverified(url);
            }
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        }
    };
    Ok(MakeRustlsConnect::new(config.with_no_client_auth()))
}

/// Said once a process: each connection of the pool would say it again.
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

fn roots(file: Option<&std::path::PathBuf>) -> Result<RootCertStore, StoreError> {
    let mut store = RootCertStore::empty();
    match file {
        Some(path) => add_file(&mut store, path)?,
        None => {
            for certificate in rustls_native_certs::load_native_certs().certs {
                // A system's store may hold one that rustls cannot read; the others still serve.
                let _ = store.add(certificate);
            }
            if store.is_empty() {
                return Err(StoreError::refused(
                    "this system has no trusted certificates (install ca-certificates), and the database URL \
                     names none by sslrootcert",
                ));
            }
        }
    }
    Ok(store)
}

fn add_file(store: &mut RootCertStore, path: &Path) -> Result<(), StoreError> {
    let refuse = |what: String| StoreError::refused(format!("sslrootcert {}: {what}", path.display()));
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| refuse(e.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|e| refuse(e.to_string()))?;
        store.add(certificate).map_err(|e| refuse(e.to_string()))?;
    }
    match store.is_empty() {
        true => Err(refuse("the file holds no certificate (-----BEGIN CERTIFICATE-----)".to_owned())),
        false => Ok(()),
    }
}

/// The sentence for a TLS failure, if it is one.
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

/// Verifies the chain but not the name: `verify-ca`.
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.0.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is looked at last, after the chain was found good.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Verifies nothing but that the peer holds the key of the certificate it shows: `require`.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
