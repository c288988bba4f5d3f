//! A certificate for `postbell dev`, signed by a CA that is made for it. The CA's key is never written, so the CA
//! signs nothing else.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::agents::server::tls::expiry;
use postbell_client::certificates::PemFile;

/// The names in the certificate.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
const DAY: Duration = Duration::from_secs(86_400);
/// How long a certificate is valid.
const VALID_FOR: Duration = DAY.saturating_mul(365);
/// A start makes a new CA and certificate if less than this is left.
const RENEWED_BEFORE: Duration = DAY.saturating_mul(30);
/// Valid from a day ago, so that a client whose clock is behind accepts the certificates.
const VALID_SINCE: Duration = DAY;

/// The paths of the files.
pub(super) struct Files {
    /// The CA's certificate, which clients are given.
    pub(super) ca: PathBuf,
    /// The broker's certificate.
    pub(super) certificate: PathBuf,
    /// The key of the broker's certificate.
    pub(super) key: PathBuf,
}

/// The files in `folder`: those of an earlier run while they are good, else new ones.
pub(super) fn files(folder: &Path) -> anyhow::Result<Files> {
    let files = Files {
        ca: folder.join("ca.pem"),
        certificate: folder.join("server.pem"),
        key: folder.join("server.key"),
    };
    if !files.are_good() {
        files.make(folder)?;
    }
    Ok(files)
}

impl Files {
    fn are_good(&self) -> bool {
        let served = PemFile::read(&self.certificate).and_then(|file| file.certificates());
        let expires = served.ok().and_then(|chain| expiry(&chain[0]));
        self.ca.exists()
            && self.key.exists()
            && expires.is_some_and(|at| at > SystemTime::now() + RENEWED_BEFORE)
    }

    fn make(&self, folder: &Path) -> anyhow::Result<()> {
        let authority_key = KeyPair::generate()?;
        let mut authority = params("Postbell development CA", &[])?;
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let ca = authority.self_signed(&authority_key)?;
        let key = KeyPair::generate()?;
        let mut server = params("Postbell development broker", &NAMES)?;
        server.use_authority_key_identifier_extension = true;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key))?;

        fs::create_dir_all(folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        // The key first, so that a later run that finds the certificate also finds its key.
        write(&self.key, &key.serialize_pem(), 0o600)?;
        write(&self.ca, &ca.pem(), 0o644)?;
        write(&self.certificate, &certificate.pem(), 0o644)
    }
}

fn params(name: &str, names: &[&str]) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, name);
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - VALID_SINCE).into(), (now + VALID_FOR).into());
    Ok(params)
}

fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let written = || {
        // The file is made anew, so that it has this mode from its first byte on.
        match fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
        #[cfg(not(unix))]
        let _ = mode;
        options.open(path)?.write_all(text.as_bytes())
    };
    written().with_context(|| format!("{} cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::server::tls::Tls;
    use crate::broker::config::TlsFiles;

    #[test]
    fn what_is_made_serves_is_kept_and_is_made_again_when_it_is_no_use() {
        let folder = tempfile::tempdir().expect("a folder");
        let fingerprint = || {
            let files = files(folder.path()).expect("files");
            let served =
                TlsFiles { certificate: files.certificate, key: files.key, client_ca: Some(files.ca) };
            Tls::load(&served).expect("they serve").shown().borrow().to_owned()
        };
        let first = fingerprint();
        assert_eq!(fingerprint(), first, "kept");
        fs::write(folder.path().join("server.pem"), "cut").expect("written");
        assert_ne!(fingerprint(), first);
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode;
            let key = fs::metadata(folder.path().join("server.key")).expect("the key");
            assert_eq!(mode(&key.permissions()) & 0o777, 0o600);
        }
    }
}
