//! TLS on the agents' port: who is trusted, who is refused and in which words, and a renewal under a live session.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use faults::proxy::Proxy;
use faults::schedule::Net;
use postbell_client::certificates::Fingerprint;
use postbell_client::{Builder, ClientError, State};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{TestDb, command, migrated};
use crate::mesh::{Mesh, PATIENCE, Raw, insert, next};
use crate::require::missing;

/// A signer of certificates.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }
}

/// The files of a broker and its clients, and their signer.
struct House {
    folder: TempDir,
    authority: Authority,
}

impl House {
    fn new() -> Self {
        let house = Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("ours") };
        house.write("ca.pem", &house.authority.pem);
        house.issue("server", &house.authority, "127.0.0.1");
        house
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces the whole file at once, as a renewal of certificates should.
    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("new"), text).unwrap();
        std::fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    /// Signs `<name>.pem` and `<name>.key`; returns the fingerprint.
    fn issue(&self, name: &str, authority: &Authority, host: &str) -> String {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        self.write(&format!("{name}.key"), &key.serialize_pem());
        self.write(&format!("{name}.pem"), &certificate.pem());
        Fingerprint::of(certificate.der()).to_string()
    }

    async fn mesh(&self, more: &[(&str, &str)]) -> Mesh {
        self.mesh_on(migrated().await, more).await
    }

    async fn mesh_on(&self, db: TestDb, more: &[(&str, &str)]) -> Mesh {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        let mut settings = vec![
            ("POSTBELL_TLS_CERT", certificate.to_str().unwrap()),
            ("POSTBELL_TLS_KEY", key.to_str().unwrap()),
        ];
        settings.extend(more);
        Mesh::on(db, &settings).await
    }
}

/// An agent that connects by TLS.
async fn agent(mesh: &Mesh, name: &str) -> Builder {
    let token = mesh.db.agent(name).await;
    tls(mesh, name, &token)
}

fn tls(mesh: &Mesh, name: &str, token: &str) -> Builder {
    Builder::new(&format!("tcp+tls://{}", mesh.agents), name, token)
        .reconnect_first(Duration::from_millis(20))
}

/// The error of a client that is refused.
async fn refused(builder: Builder) -> String {
    let connected = timeout(PATIENCE, builder.connect()).await.expect("an answer");
    let error = connected.map(|_| ()).expect_err("a refusal");
    assert!(!error.is_retryable(), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_trusted_broker_is_spoken_to_and_everything_passes() {
    let house = House::new();
    let mesh = house.mesh(&[]).await;
    let builder = agent(&mesh, "a").await.ca_file(house.path("ca.pem"));
    let (_client, mut deliveries) = builder.connect().await.unwrap();
    let sql = mesh.db.sql().await;
    insert(&sql, "a", 5, "\"small\"").await;
    next(&mut deliveries).await.ack().await;
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
    // The refusals of the protocol arrive as they do in clear.
    let said = refused(tls(&mesh, "a", "pb_wrong").ca_file(house.path("ca.pem"))).await;
    assert!(said.contains("unknown agent or wrong token"), "{said}");
    assert!(mesh.metric("postbell_tls_expires_timestamp_seconds").await > 1.7e9);
}

#[tokio::test]
async fn a_broker_that_is_not_trusted_gets_no_token() {
    let house = House::new();
    let fingerprint = house.issue("server", &house.authority, "elsewhere.example");
    let foreign = Authority::new("foreign");
    house.write("foreign.pem", &foreign.pem);
    let mesh = house.mesh(&[]).await;
    let builder = agent(&mesh, "a").await;
    let said = refused(builder.clone().ca_file(house.path("foreign.pem"))).await;
    assert!(said.contains("an issuer that is not trusted here") && said.contains("POSTBELL_PIN"), "{said}");
    let said = refused(builder.clone().ca_file(house.path("ca.pem"))).await;
    assert!(said.contains("made out to another host"), "{said}");
    let wrong = "0".repeat(64);
    let said = refused(builder.clone().pin_sha256(&wrong)).await;
    assert!(
        said.contains(&format!("has the fingerprint {fingerprint}, which is not the pinned one")),
        "{said}"
    );
    // With a pin and a CA, both must be right.
    let said = refused(builder.clone().pin_sha256(&fingerprint).ca_file(house.path("foreign.pem"))).await;
    assert!(said.contains("not trusted here"), "{said}");
    let said = refused(builder.clone().pin_sha256("abc")).await;
    assert!(said.contains("64 hexadecimal digits"), "{said}");
    let said = refused(builder.clone().ca_file("/no/such/ca.pem")).await;
    assert!(said.starts_with("/no/such/ca.pem: "), "{said}");
    mesh.until_metric("postbell_closed_total{reason=\"tls\"}", |n| n == 4.0).await;
    assert_eq!(mesh.metric("postbell_closed_total{reason=\"disconnect\"}").await, 0.0);

    // The pin alone is enough, though no system trusts this CA and the name is another.
    builder.pin_sha256(&fingerprint).connect().await.unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_no_session_is_dropped() {
    let house = House::new();
    let old = house.issue("server", &house.authority, "127.0.0.1");
    let mesh = house.mesh(&[]).await;
    let builder = agent(&mesh, "a").await;
    let (client, mut deliveries) = builder.clone().pin_sha256(&old).connect().await.unwrap();
    let before = client.state().borrow().clone();
    let sql = mesh.db.sql().await;
    insert(&sql, "a", 5, "1").await;
    let held = next(&mut deliveries).await;

    // A broken file changes nothing.
    let good = std::fs::read_to_string(house.path("server.pem")).unwrap();
    house.write("server.pem", &good[..good.len() / 2]);
    mesh.until_metric("postbell_tls_reload_failures_total", |n| n >= 1.0).await;
    let other = agent(&mesh, "b").await;
    other.clone().pin_sha256(&old).connect().await.unwrap();

    let new = house.issue("server", &house.authority, "127.0.0.1");
    let renewed = async {
        loop {
            match other.clone().pin_sha256(&new).connect().await {
                Ok(connected) => break connected,
                Err(ClientError::Tls { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(e) => panic!("{e}"),
            }
        }
    };
    timeout(PATIENCE, renewed).await.expect("the new certificate is shown");
    let said = refused(other.pin_sha256(&old)).await;
    assert!(said.contains(&new), "{said}");

    held.ack().await;
    insert(&sql, "a", 5, "2").await;
    next(&mut deliveries).await.ack().await;
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
    assert!(matches!(before, State::Connected { .. }));
    assert_eq!(*client.state().borrow(), before, "the same session");
}

#[tokio::test]
async fn with_a_client_ca_only_its_clients_get_in() {
    let house = House::new();
    house.issue("client", &house.authority, "agent.example");
    let foreign = Authority::new("foreign");
    house.issue("stranger", &foreign, "agent.example");
    let mesh = house.mesh(&[("POSTBELL_TLS_CLIENT_CA", house.path("ca.pem").to_str().unwrap())]).await;
    let builder = agent(&mesh, "a").await.ca_file(house.path("ca.pem"));
    let said = refused(builder.clone()).await;
    assert!(said.contains("asks for a certificate of the client's"), "{said}");
    let stranger = (house.path("stranger.pem"), house.path("stranger.key"));
    let said = refused(builder.clone().client_certificate(stranger.0, stranger.1)).await;
    assert!(said.contains("does not take the certificate of this client"), "{said}");
    let mixed = (house.path("client.pem"), house.path("stranger.key"));
    let said = refused(builder.clone().client_certificate(mixed.0, mixed.1)).await;
    assert!(said.contains("stranger.key: the key does not serve"), "{said}");
    mesh.until_metric("postbell_closed_total{reason=\"tls\"}", |n| n == 2.0).await;

    let good = (house.path("client.pem"), house.path("client.key"));
    let with = |builder: Builder| builder.client_certificate(&good.0, &good.1);
    with(builder).connect().await.unwrap();
    // The certificate does not stand for the token.
    let said = refused(with(tls(&mesh, "a", "pb_wrong").ca_file(house.path("ca.pem")))).await;
    assert!(said.contains("unknown agent or wrong token"), "{said}");
}

#[tokio::test]
async fn a_client_in_clear_is_told_to_use_tls() {
    let house = House::new();
    let mesh = house.mesh(&[]).await;
    let token = mesh.db.agent("a").await;
    let mut raw = Raw::open(mesh.agents).await;
    raw.say(&format!(r#"{{"op":"hello","agent":"a","token":"{token}"}}"#)).await;
    let error: Value = raw.expect_error("plaintext_refused", true).await;
    assert!(error["message"].as_str().unwrap().contains("tcp+tls://"), "{error}");
    let said = refused(Builder::new(&mesh.url(), "a", &token)).await;
    assert!(said.contains("speaks TLS only") && said.contains("plaintext_refused"), "{said}");
    mesh.until_metric("postbell_closed_total{reason=\"plaintext_refused\"}", |n| n == 2.0).await;
    // A client that was told whom to trust does not go on without TLS either.
    let said = refused(Builder::new(&mesh.url(), "a", &token).pin_sha256(&"0".repeat(64))).await;
    assert!(said.contains("use tcp+tls://"), "{said}");
}

#[tokio::test]
async fn a_client_of_tls_is_told_that_the_broker_speaks_none() {
    let mesh = Mesh::start().await;
    let said = refused(agent(&mesh, "a").await.pin_sha256(&"0".repeat(64))).await;
    assert!(said.contains("it speaks no TLS there"), "{said}");
}

/// A way to the broker on which it sees a peer that is not on loopback; `None` on a machine without a network.
async fn from_outside(broker: SocketAddr) -> Option<Proxy> {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: it only chooses the address to send from.
    probe.connect("192.0.2.1:9").ok()?;
    let outside = probe.local_addr().unwrap().ip();
    if outside.is_loopback() {
        return None;
    }
    let proxy = Proxy::in_turn(vec![broker]).await.unwrap();
    proxy.lead_from(outside);
    Some(proxy)
}

#[tokio::test]
async fn a_token_from_another_machine_must_be_encrypted() {
    let house = House::new();
    for (mesh, scheme, said) in [
        (house.mesh(&[]).await, "tcp+tls", None),
        (Mesh::start().await, "tcp", Some("must not cross a network in clear")),
        (Mesh::with(&[("POSTBELL_ALLOW_PLAINTEXT", "1")]).await, "tcp", None),
    ] {
        let Some(proxy) = from_outside(mesh.agents).await else {
            return missing("this machine has no address but loopback");
        };
        let token = mesh.db.agent("a").await;
        let mut builder = Builder::new(&format!("{scheme}://{}", proxy.address), "a", &token);
        if scheme == "tcp+tls" {
            builder = builder.ca_file(house.path("ca.pem"));
        }
        match said {
            None => drop(builder.connect().await.unwrap()),
            Some(said) => assert!(refused(builder).await.contains(said)),
        }
    }
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_cut() {
    let house = House::new();
    let mesh = house.mesh(&[]).await;
    let mut silent = TcpStream::connect(mesh.agents).await.unwrap();
    let mut slow = TcpStream::connect(mesh.agents).await.unwrap();
    // The head of a record whose rest never comes.
    slow.write_all(&[0x16, 3, 1, 2, 0, 1]).await.unwrap();
    for socket in [&mut silent, &mut slow] {
        let ended = timeout(PATIENCE, socket.read(&mut [0; 64])).await.expect("cut");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
    }
    mesh.until_metric("postbell_closed_total{reason=\"tls\"}", |n| n == 2.0).await;
    // Rubbish that begins like a handshake ends with an alert as well.
    let mut rubbish = TcpStream::connect(mesh.agents).await.unwrap();
    rubbish.write_all(&[0x16; 65_536]).await.unwrap();
    let mut said = Vec::new();
    timeout(PATIENCE, rubbish.read_to_end(&mut said)).await.expect("an end").expect("that is no reset");
    assert_eq!(said.first(), Some(&0x15), "an alert: {said:?}");
    mesh.until_metric("postbell_closed_total{reason=\"tls\"}", |n| n == 3.0).await;
}

/// The handshake, and the lines after it, must not depend on how the bytes arrive.
#[tokio::test]
async fn byte_by_byte_is_as_good_as_at_once() {
    let house = House::new();
    let mesh = house.mesh(&[]).await;
    let proxy = Proxy::in_turn(vec![mesh.agents]).await.unwrap();
    proxy.inflict(Net::ByteByByte);
    let token = mesh.db.agent("a").await;
    let url = format!("tcp+tls://{}", proxy.address);
    let builder = Builder::new(&url, "a", &token).ca_file(house.path("ca.pem"));
    let (client, mut deliveries) = builder.connect().await.unwrap();
    insert(&mesh.db.sql().await, "a", 5, "\"bit by bit\"").await;
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.payload(), "\"bit by bit\"");
    delivery.ack().await;
    mesh.db.until("select count(*) = 0 from postbell.deliveries").await;
    client.close().await;
    drop(deliveries);
    mesh.until_metric("postbell_closed_total{reason=\"bye\"}", |n| n == 1.0).await;
}

#[tokio::test]
async fn a_bad_file_is_refused_at_the_start() {
    let house = House::new();
    let db = migrated().await;
    let path = |name: &str| house.path(name).display().to_string();
    house.issue("other", &house.authority, "127.0.0.1");
    let (good, key, other) = (path("server.pem"), path("server.key"), path("other.key"));
    for (certificate, key, sentence) in [
        ("/no/such/cert.pem", &*key, "POSTBELL_TLS_CERT /no/such/cert.pem: "),
        (&*key, &*key, "holds no certificate"),
        (&*good, &*good, "holds no private key"),
        (&*good, &*other, "does not serve for the certificate"),
    ] {
        let ports = ["--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"];
        let mut args = vec!["serve", "--tls-cert", certificate, "--tls-key", key];
        args.extend(ports);
        let ended = timeout(PATIENCE, command(&db, &args)).await.expect("it does not start");
        assert_eq!(ended.status, 1, "{}", ended.stderr);
        let said = ended.stderr.lines().last().unwrap_or_default();
        assert!(said.contains(sentence) && said.contains("postbell: POSTBELL_TLS_"), "{said}");
    }
}

/// The lines that `dev --tls` prints are enough to connect, by the CA that it made.
#[tokio::test]
async fn dev_brings_its_own_ca() {
    let db = migrated().await;
    let folder = tempfile::tempdir().unwrap();
    let mut dev = tokio::process::Command::new(env!("CARGO_BIN_EXE_postbell"));
    dev.args(["dev", "--tls", "--demo", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data-dir"])
        .arg(folder.path())
        .env_clear()
        .env("DATABASE_URL", db.url())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut dev = dev.spawn().unwrap();
    let mut lines = BufReader::new(dev.stdout.take().unwrap()).lines();
    let export = loop {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("a line").unwrap().expect("the hints");
        if let Some((_, export)) = line.split_once("export ") {
            break export.to_owned();
        }
    };
    let value = |name: &str| {
        let from = export.split_once(&format!("{name}=")).map(|(_, from)| from);
        let from = from.unwrap_or_else(|| panic!("no {name} in {export}"));
        // A path with blanks is quoted.
        let (word, end) = from.strip_prefix('\'').map_or((from, ' '), |quoted| (quoted, '\''));
        word.split(end).next().unwrap_or_default().to_owned()
    };
    let (url, token) = (value("POSTBELL_URL"), value("POSTBELL_TOKEN"));
    assert!(url.starts_with("tcp+tls://"), "{url}");
    let builder = Builder::new(&url, &value("POSTBELL_AGENT"), &token);
    builder.clone().ca_file(value("POSTBELL_CA")).connect().await.unwrap();
    let said = refused(builder).await;
    assert!(said.contains("not trusted here") || said.contains("no trusted certificates"), "{said}");
}

#[tokio::test]
async fn a_link_goes_to_the_certificate_in_the_owners_row_and_shows_its_own() {
    let house = House::new();
    let ca = house.path("ca.pem");
    // Both ask their clients for a certificate.
    let mutual = [("POSTBELL_TLS_CLIENT_CA", ca.to_str().unwrap())];
    let one = house.mesh(&mutual).await;
    let two = house.mesh_on(one.db.clone(), &mutual).await;
    house.issue("agent", &house.authority, "agent.example");
    let token = one.db.agent("a").await;
    let connect = |mesh: &Mesh, window: u32| {
        let (certificate, key) = (house.path("agent.pem"), house.path("agent.key"));
        tls(mesh, "a", &token).ca_file(&ca).client_certificate(certificate, key).window(window).connect()
    };
    let _near = connect(&one, 0).await.unwrap();
    one.db.until("select exists (select from postbell.leases)").await;
    let (far, mut deliveries) = connect(&two, 5).await.unwrap();
    two.until_metric("postbell_links", |n| n == 1.0).await;
    let sql = one.db.sql().await;
    insert(&sql, "a", 5, "1").await;
    next(&mut deliveries).await.ack_confirmed().await.unwrap();
    // A renewal is in the row within a second or so, and the next link goes to the new certificate.
    let renewed = house.issue("server", &house.authority, "127.0.0.1");
    let in_rows = format!("select bool_and(certificate_sha256 = '{renewed}') from postbell.brokers");
    one.db.until(&in_rows).await;
    far.close().await;
    let (_far, mut deliveries) = connect(&two, 5).await.unwrap();
    two.until_metric("postbell_links", |n| n == 1.0).await;
    insert(&sql, "a", 5, "2").await;
    assert_eq!(next(&mut deliveries).await.payload(), "2");
}
