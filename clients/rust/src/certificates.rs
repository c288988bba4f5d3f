//! The parts that all TLS connections share: certificates and keys as PEM files, fingerprints, trusted roots,
//! and a verifier. The users (client, agents' port, connection to the database) decide whom to trust.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};

/// A file that cannot serve, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct FileFault {
    /// The file's path.
    pub path: PathBuf,
    /// The reason why it cannot serve.
    pub what: String,
}

/// A PEM file and its contents. `Debug` shows only the number of bytes, since the file may be a key.
#[derive(Clone, PartialEq, Eq)]
pub struct PemFile {
    path: PathBuf,
    contents: Vec<u8>,
}

impl fmt::Debug for PemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.path.display(), self.contents.len())
    }
}

impl PemFile {
    /// Reads the whole file. A path that begins like PEM is taken for the contents themselves, because some
    /// platforms (Railway, scheduled jobs) have variables but no files.
    ///
    /// # Errors
    /// The system cannot read the file.
    pub fn read(path: &Path) -> Result<Self, FileFault> {
        if let Some(text) = inline(path) {
            return Ok(Self { path: INLINE.into(), contents: text.as_bytes().to_vec() });
        }
        match std::fs::read(path) {
            Ok(contents) => Ok(Self { path: path.to_owned(), contents }),
            Err(e) => Err(FileFault { path: path.to_owned(), what: e.to_string() }),
        }
    }

    /// The certificates in the file, in their order; at least one.
    ///
    /// # Errors
    /// The file has no certificate, or one that cannot be read.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileFault> {
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.contents).collect();
        match found {
            Ok(found) if found.is_empty() => {
                Err(self.fault("the file holds no certificate (-----BEGIN CERTIFICATE-----)"))
            }
            Ok(found) => Ok(found),
            Err(e) => Err(self.fault(format!("a certificate in the file is damaged: {e}"))),
        }
    }

    /// The first private key in the file.
    ///
    /// # Errors
    /// The file has no key, or the key is encrypted or damaged.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, FileFault> {
        // The reader's own sentence may quote the file.
        PrivateKeyDer::from_pem_slice(&self.contents).map_err(|_| {
            self.fault(
                "the file holds no private key that can be read (-----BEGIN PRIVATE KEY-----, not encrypted)",
            )
        })
    }

    /// The certificates in the file, as roots to trust.
    ///
    /// # Errors
    /// See [`Self::certificates`]; or a certificate cannot be trusted as an issuer.
    pub fn roots(&self) -> Result<RootCertStore, FileFault> {
        let mut store = RootCertStore::empty();
        for certificate in self.certificates()? {
            store.add(certificate).map_err(|e| self.fault(e.to_string()))?;
        }
        Ok(store)
    }

    /// A fault of this file, with this reason.
    pub fn fault(&self, what: impl Into<String>) -> FileFault {
        FileFault { path: self.path.clone(), what: what.into() }
    }
}

/// Named instead of a path if the contents were given: they may be a key, and must not be shown.
const INLINE: &str = "the PEM text that was given";

fn inline(path: &Path) -> Option<&str> {
    path.to_str().filter(|text| text.trim_start().starts_with("-----BEGIN "))
}

/// A path as a log may show it.
pub fn shown(path: &Path) -> &Path {
    if inline(path).is_some() { Path::new(INLINE) } else { path }
}

/// The roots that this system trusts; empty if it has none.
pub fn system_roots() -> RootCertStore {
    let mut store = RootCertStore::empty();
    for certificate in rustls_native_certs::load_native_certs().certs {
        // The system's store may hold a certificate that rustls cannot read; the others still serve.
        let _ = store.add(certificate);
    }
    store
}

/// The cryptography of every TLS connection here.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// The SHA-256 of a certificate, shown as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    /// Takes hex as a broker logs it, and also the whole line that `openssl x509 -noout -fingerprint -sha256`
    /// prints.
    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.rsplit('=').next().unwrap_or(text).trim();
        let digits: Option<Vec<u8>> =
            hex.chars().filter(|c| *c != ':').map(|c| Some(c.to_digit(16)? as u8)).collect();
        let digits = digits.filter(|digits| digits.len() == 64).ok_or_else(|| {
            format!("a fingerprint is a SHA-256, 64 hexadecimal digits with or without colons, not {text:?}")
        })?;
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

/// The identity that a server shows in the handshake.
pub struct Shown<'a> {
    /// The server's own certificate.
    pub certificate: &'a CertificateDer<'a>,
    /// The certificates that lead from it to an issuer.
    pub intermediates: &'a [CertificateDer<'a>],
    /// The host name that the client looked for.
    pub name: &'a ServerName<'a>,
    /// The issuer's stapled answer, empty if there is none.
    pub ocsp: &'a [u8],
    /// The moment at which the certificates must be valid.
    pub now: UnixTime,
}

/// Decides whether a server's certificate is accepted.
pub trait Judge: fmt::Debug + Send + Sync {
    /// Accepts the certificate.
    ///
    /// # Errors
    /// The certificate is refused, or cannot be judged.
    fn judge(&self, shown: &Shown<'_>) -> Result<(), rustls::Error>;
}

/// A verifier that leaves the certificate to a [`Judge`], and itself verifies that the server holds the
/// certificate's key.
#[derive(Debug)]
pub struct Judged<J> {
    /// Decides about the certificate.
    pub judge: J,
    /// Verifies the signature by the key.
    pub provider: Arc<CryptoProvider>,
}

impl<J: Judge> ServerCertVerifier for Judged<J> {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.judge.judge(&Shown { certificate, intermediates, name, ocsp, now })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_it_is_shown_and_as_openssl_prints_it() {
        // SHA-256 of "abc", FIPS 180-2.
        let shown = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let fingerprint = Fingerprint::of(&CertificateDer::from(b"abc".to_vec()));
        assert_eq!(fingerprint.to_string(), shown);
        assert_eq!(shown.parse(), Ok(fingerprint));
        let pairs: Vec<String> = shown
            .to_uppercase()
            .as_bytes()
            .chunks(2)
            .map(|c| String::from_utf8_lossy(c).into_owned())
            .collect();
        assert_eq!(format!("sha256 Fingerprint={}\n", pairs.join(":")).parse(), Ok(fingerprint));
        for bad in ["", "ba78", &shown[1..], &format!("{shown}0"), &shown.replace('f', "g"), "é"] {
            assert!(bad.parse::<Fingerprint>().is_err_and(|e| e.contains("64 hexadecimal")), "{bad}");
        }
    }

    #[test]
    fn what_a_file_lacks_is_said_and_a_key_is_not_shown() {
        let file = |text: &str| PemFile { path: "k.pem".into(), contents: text.into() };
        let sentence = file("secret").key().expect_err("no key").to_string();
        assert!(sentence.starts_with("k.pem: ") && sentence.contains("no private key"), "{sentence}");
        let sentence = file("secret").certificates().expect_err("none").to_string();
        assert!(sentence.contains("holds no certificate") && !sentence.contains("secret"), "{sentence}");
        let sentence = file("-----BEGIN CERTIFICATE-----\nsecret\n").roots().expect_err("cut").to_string();
        assert!(sentence.contains("damaged"), "{sentence}");
        assert_eq!(format!("{:?}", file("secret")), "k.pem (6 bytes)");
        let text = Path::new("\n-----BEGIN PRIVATE KEY-----\nsec!ret\n-----END PRIVATE KEY-----\n");
        let sentence = PemFile::read(text).expect("its own contents").key().expect_err("damaged").to_string();
        assert!(sentence.starts_with(INLINE) && !sentence.contains("sec!ret"), "{sentence}");
        assert_eq!((shown(text), shown(Path::new("k.pem"))), (Path::new(INLINE), Path::new("k.pem")));
        assert!(
            PemFile::read(Path::new("/no/such/file"))
                .is_err_and(|e| e.to_string().starts_with("/no/such/file: "))
        );
    }
}
