//! Real handshakes with a server that speaks just enough Postgres to start TLS. The openssl command makes the
//! certificates; without that command these tests say so and pass.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tempfile::TempDir;

use super::*;

/// An authority, a certificate from it for `db.example.test`, and a second authority that issued nothing.
fn certificates() -> Option<TempDir> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ext"), "subjectAltName=DNS:db.example.test\n").unwrap();
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    let commands = [
        format!("req -x509 {new_key} -subj /CN=ours -keyout ca.key -out ca.crt"),
        format!("req -x509 {new_key} -subj /CN=foreign -keyout foreign.key -out foreign.crt"),
        format!("req {new_key} -subj /CN=db.example.test -keyout server.key -out server.csr"),
        "x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile ext \
         -out server.crt"
            .to_owned(),
    ];
    for command in commands {
        let words = command.split_whitespace();
        match Command::new("openssl").args(words).current_dir(dir.path()).output() {
            Ok(output) if output.status.success() => {}
            _ => {
                eprintln!("skipped: no usable openssl command");
                return None;
            }
        }
    }
    Some(dir)
}

/// Accepts connections. Either speaks TLS and hangs up after the handshake, or refuses TLS.
fn serve(dir: &Path, offers_tls: bool) -> u16 {
    let pem = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&pem("server.crt")).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&pem("server.key")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut socket in listener.incoming().map_while(Result::ok) {
            // The SSLRequest packet is eight bytes.
            if socket.read_exact(&mut [0; 8]).is_err() {
                continue;
            }
            if !offers_tls {
                let _ = socket.write_all(b"N");
                continue;
            }
            let _ = socket.write_all(b"S");
            let mut tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let _ = tls.complete_io(&mut socket);
            // Waits for the startup packet, so that hanging up is not a TLS failure.
            let _ = rustls::Stream::new(&mut tls, &mut socket).read(&mut [0; 8]);
        }
    });
    port
}

/// The sentence that a person gets; `None` if TLS succeeded.
async fn attempt(host: &str, port: u16, query: &str) -> Option<String> {
    let text = format!("postgres://u@{host}:{port}/d?hostaddr=127.0.0.1&{query}");
    let url = DatabaseUrl::parse(&text).unwrap();
    let tls = match connector(&url) {
        Ok(tls) => tls,
        Err(error) => return Some(error.to_string()),
    };
    let error = url.config.connect(tls).await.err().expect("the test server has no database");
    sentence(&error)
}

#[tokio::test]
async fn each_mode_checks_what_it_says() {
    let Some(dir) = certificates() else { return };
    let port = serve(dir.path(), true);
    let file = |name: &str| format!("sslrootcert={}", dir.path().join(name).display());
    let (ours, foreign) = (file("ca.crt"), file("foreign.crt"));
    let right = "db.example.test";

    // require: any certificate, any name.
    assert_eq!(attempt("localhost", port, "sslmode=require").await, None);
    assert_eq!(attempt("localhost", port, "sslmode=prefer").await, None);
    // verify-ca, and require with a root as in libpq: the chain, any name.
    for mode in ["verify-ca", "require"] {
        assert_eq!(attempt("localhost", port, &format!("sslmode={mode}&{ours}")).await, None);
        let said = attempt("localhost", port, &format!("sslmode={mode}&{foreign}")).await.unwrap();
        assert!(said.contains("not trusted") && said.contains("sslrootcert="), "{said}");
    }
    // verify-full: the chain and the name.
    assert_eq!(attempt(right, port, &format!("sslmode=verify-full&{ours}")).await, None);
    let said = attempt("localhost", port, &format!("sslmode=verify-full&{ours}")).await.unwrap();
    assert!(said.contains("made out to another host"), "{said}");
    let said = attempt(right, port, &format!("sslmode=verify-full&{foreign}")).await.unwrap();
    assert!(said.contains("not trusted"), "{said}");
    // The text of the file may be given instead of its name, as the guide to Supabase does.
    let text = std::fs::read(dir.path().join("ca.crt")).unwrap();
    let text: String = text.iter().map(|byte| format!("%{byte:02X}")).collect();
    assert_eq!(attempt(right, port, &format!("sslmode=verify-full&sslrootcert={text}")).await, None);
}

#[tokio::test]
async fn a_server_without_tls_is_named_as_such() {
    let Some(dir) = certificates() else { return };
    let port = serve(dir.path(), false);
    let said = attempt("localhost", port, "sslmode=require").await.unwrap();
    assert!(said.contains("offers no TLS") && said.contains("sslmode=disable"), "{said}");
}

#[tokio::test]
async fn root_files_that_are_no_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ca.crt");
    let query = format!("sslmode=verify-full&sslrootcert={}", path.display());
    let said = attempt("h", 1, &query).await.unwrap();
    assert!(said.contains("sslrootcert") && said.contains("No such file"), "{said}");
    for text in ["", "not a certificate\n"] {
        std::fs::write(&path, text).unwrap();
        let said = attempt("h", 1, &query).await.unwrap();
        assert!(said.contains("the file holds no certificate"), "{said}");
    }
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n").unwrap();
    let said = attempt("h", 1, &query).await.unwrap();
    assert!(said.contains("sslrootcert"), "{said}");
}

#[test]
fn sentences_for_what_openssl_does_not_make() {
    let said = |fault| tls_sentence(&rustls::Error::InvalidCertificate(fault));
    assert!(said(CertificateError::Expired).contains("has expired"));
    assert!(said(CertificateError::UnknownIssuer).contains("for Supabase download it in the dashboard"));
}
