use std::io::{BufRead, BufReader};

use super::*;
use crate::store::{Connection, DatabaseUrl, Target};

fn options(data: Data) -> Options {
    let bin_dir = std::env::var_os("POSTBELL_TEST_PG").map(PathBuf::from);
    Options {
        data,
        bin_dir,
        settings: vec![("max_connections".to_owned(), "20".to_owned())],
        environment: Vec::new(),
    }
}

async fn answer(server: &DevPostgres, sql: &'static str) -> String {
    let url = DatabaseUrl::parse(&server.url()).expect("url");
    let connection = Connection::open(&Target::new(url, "public")).await.expect("connects");
    connection.query_one(sql, &[]).await.expect("answers").try_get(0).expect("a text")
}

#[tokio::test]
async fn a_temporary_server_runs_and_leaves_nothing() {
    let server = DevPostgres::start(options(Data::Temporary)).expect("starts");
    assert_eq!(answer(&server, "select current_setting('max_connections')").await, "20");
    assert!(server.version().starts_with(|c: char| c.is_ascii_digit()));
    let folder = server.folder.clone();
    server.stop().expect("stops");
    assert!(!folder.exists());
}

#[cfg(target_os = "linux")]
/// A process that another test starts holds the last listener's socket as well, from its fork to its exec.
fn until_nobody_listens(address: std::net::SocketAddr) {
    for _ in 0..6_000 {
        if std::net::TcpStream::connect(address).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("somebody listens at {address}");
}

#[test]
fn a_server_starts_again_and_again_at_a_kept_port_that_is_never_free() {
    let kept = KeptPort::take().expect("a port");
    for _ in 0..2 {
        // Sockets that do not reuse addresses see whether a port is taken.
        let other = tokio::net::TcpSocket::new_v4().expect("a socket");
        assert!(other.bind(kept.address()).is_err(), "taken");
        until_nobody_listens(kept.address());
        let server = std::net::TcpListener::bind(kept.address()).expect("the server has it");
        std::net::TcpStream::connect(kept.address()).expect("reaches the server");
        server.accept().expect("is reached");
    }
}

#[tokio::test]
async fn kept_data_and_its_password_are_there_the_next_time() {
    let folder = temporary_folder();
    let mut server = DevPostgres::start(options(Data::Kept(folder.clone()))).expect("starts");
    let (password, port) = (server.password.clone(), server.port());
    let made = "select lo_from_bytea(4711, 'kept')::text";
    assert_eq!(answer(&server, made).await, "4711");
    server.restart(true).expect("restarts");
    assert_eq!(server.port(), port);
    let second = DevPostgres::start(options(Data::Kept(folder.clone())));
    let refusal = second.expect_err("two servers on one folder").to_string();
    assert!(refusal.contains("another server runs"), "{refusal}");
    server.stop().expect("stops");
    let server = DevPostgres::start(options(Data::Kept(folder.clone()))).expect("starts again");
    assert_eq!(server.password, password);
    assert_eq!(answer(&server, "select convert_from(lo_get(4711), 'UTF8')").await, "kept");
    server.stop().expect("stops");
    fs::write(folder.join("data/PG_VERSION"), "9\n").expect("write");
    let refusal =
        DevPostgres::start(options(Data::Kept(folder.clone()))).expect_err("another major").to_string();
    assert!(refusal.contains("--fresh"), "{refusal}");
    fs::remove_dir_all(folder).expect("remove");
}

/// Not a test by itself: the process that `a_killed_owner_leaves_no_server` kills.
#[test]
#[ignore = "a_killed_owner_leaves_no_server runs it"]
fn owner_to_be_killed() {
    let server = DevPostgres::start(options(Data::Temporary)).expect("starts");
    let pid = server.running.as_ref().expect("runs").server.id();
    println!("\nserver {pid} {}", server.folder.display());
    std::thread::sleep(Duration::from_secs(60));
}

#[cfg(unix)]
#[test]
fn a_killed_owner_leaves_no_server() {
    let mut owner = Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "devdb::tests::owner_to_be_killed", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let lines = BufReader::new(owner.stdout.take().expect("stdout")).lines();
    let told = lines.map_while(Result::ok).find(|l| l.starts_with("server ")).expect("it starts");
    let mut words = told.split(' ').skip(1);
    let (pid, folder) = (words.next().expect("pid"), Path::new(words.next().expect("folder")));
    let is_alive =
        || Command::new("kill").args(["-0", pid]).stderr(Stdio::null()).status().expect("kill").success();
    assert!(is_alive() && folder.exists());
    // std's kill is SIGKILL: nothing of the owner runs any more.
    owner.kill().expect("kill");
    owner.wait().expect("wait");
    let deadline = Instant::now() + Duration::from_secs(20);
    while (is_alive() || folder.exists()) && Instant::now() < deadline {
        std::thread::sleep(POLL_EVERY);
    }
    assert!(!is_alive(), "the server outlived its owner");
    assert!(!folder.exists(), "the folder outlived its owner");
}
