//! Bytes that the kernel holds for an agent that does not read, and the number of clients of the HTTP port.

use std::time::Duration;

use postbell::base::sockets::UNSENT_BYTES_MAX;
use postbell::watch::flow::WATCHERS_MAX;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::mesh::{Mesh, PATIENCE, get};
use crate::require::missing;
use crate::status::{OPERATOR, VIEWER, ask, mesh};

/// Bytes that the kernel holds for the peer at this local address, unsent or unacknowledged, by /proc of Linux.
fn unsent(from: std::net::SocketAddr, to: std::net::SocketAddr) -> Option<usize> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let (from, to) = (format!(":{:04X}", from.port()), format!(":{:04X}", to.port()));
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (queue, is_it) = (fields.get(4)?, fields[1].ends_with(&from) && fields[2].ends_with(&to));
        is_it.then(|| usize::from_str_radix(queue.split(':').next()?, 16).ok())?
    })
}

#[tokio::test]
async fn the_kernel_holds_little_for_an_agent_that_does_not_read() {
    let mesh = Mesh::start().await;
    let token = mesh.db.agent("slow").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut slow = socket.connect(mesh.agents).await.unwrap();
    let here = slow.local_addr().unwrap();
    let hello = format!("{{\"op\":\"hello\",\"agent\":\"slow\",\"token\":\"{token}\",\"window\":1000}}\n");
    slow.write_all(hello.as_bytes()).await.unwrap();
    mesh.db.until("select status = 'online' from agent_registry where agent_id = 'slow'").await;
    let sql = mesh.db.sql().await;
    sql.batch_execute(
        "insert into agent_messages (from_agent_id, to_agent_id, message_type, payload)
         select 'x', 'slow', 'data', to_jsonb(repeat('x', 200000)) from generate_series(1, 60)",
    )
    .await
    .unwrap();
    if unsent(mesh.agents, here).is_none() {
        return missing("this system has no /proc/net/tcp");
    }
    let (mut most, mut same) = (0, 0);
    // Until the number grows no more.
    while same < 20 {
        let now = unsent(mesh.agents, here).unwrap_or(0);
        (most, same) = if now > most { (now, 0) } else { (most, same + usize::from(most > 0)) };
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(most <= 2 * UNSENT_BYTES_MAX, "{most} bytes are held");
}

/// Each is answered within a second, as a platform's health check demands. The broker need not be ready: this process
/// may be out of files.
async fn is_answered(mesh: &Mesh, paths: &[&str]) {
    for path in paths {
        let answer = timeout(Duration::from_secs(1), get(mesh.http, path)).await;
        let (status, _) = answer.unwrap_or_else(|_| panic!("{path} was not answered"));
        assert!(status == 200 || (*path == "/health" && status == 503), "{path}: {status}");
    }
}

/// Clients behind one proxy share one address, so those with a token have streams of their own.
#[tokio::test]
async fn streams_of_one_address_or_token_leave_room_for_others() {
    let mesh = mesh("local").await;
    let mut streams = Vec::new();
    let mut open = async |headers: &[(&str, &str)], most: usize| {
        let mut opened = 0;
        for _ in 0..most {
            let answer = ask(mesh.http, "GET /api/events", headers, "").await;
            if answer.status() == 200 {
                opened += 1;
                streams.push(answer);
            }
        }
        opened
    };
    assert_eq!(open(&[], WATCHERS_MAX + 5).await, WATCHERS_MAX, "all, while nobody else comes");
    // Others take their share from the one that has most.
    assert_eq!(open(&[VIEWER], WATCHERS_MAX).await, WATCHERS_MAX / 2);
    assert_eq!(open(&[OPERATOR], 1).await, 1);
    assert_eq!(ask(mesh.http, "GET /api/events", &[], "").await.status(), 503);
    is_answered(&mesh, &["/health", "/metrics", "/", "/page/main.js"]).await;
    assert_eq!(ask(mesh.http, "GET /api/mesh", &[], "").await.status(), 200);
    drop(streams);
    timeout(PATIENCE, async {
        while ask(mesh.http, "GET /api/events", &[], "").await.status() != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("given back");
}

/// Connections that never end, on a whole broker, by one client.
#[tokio::test]
async fn connections_that_never_end_shut_nobody_out() {
    let mesh = Mesh::start().await;
    // Each connection takes two files of this process, so the limit on open files bounds how many there can be.
    let files = postbell::base::open_files::raise_bound().unwrap_or(1_024);
    let many = (files as usize / 4).min(2_500);
    let mut held = Vec::new();
    for n in 0..many {
        let mut socket = TcpStream::connect(mesh.http).await.unwrap();
        let said: &[u8] = [
            &b""[..],
            b"GET /metrics HTTP/1.1\r\n",
            b"POST /api/dead/purge HTTP/1.1\r\ncontent-length: 9\r\n\r\n",
        ][n % 3];
        let _cut = socket.write_all(said).await;
        held.push(socket);
        if n % 500 == 499 || n + 1 == many {
            is_answered(&mesh, &["/health", "/health/live", "/metrics"]).await;
        }
    }
}
