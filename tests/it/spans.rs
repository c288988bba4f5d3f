//! Spans of messages that belong to a trace, as a collector gets them.

use postbell_client::Outgoing;
use postbell_client::message::MessageType;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::mesh::{Mesh, next};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// The body of one POST, which is answered.
async fn post(stream: &mut TcpStream) -> Vec<u8> {
    let mut request = Vec::new();
    let (head, length) = loop {
        assert!(stream.read_buf(&mut request).await.expect("reads") > 0, "a whole request");
        let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&request[..end]).to_lowercase();
        let length = head.lines().find_map(|l| l.strip_prefix("content-length:")).expect("a length");
        break (end + 4, length.trim().parse::<usize>().expect("a number"));
    };
    while request.len() < head + length {
        assert!(stream.read_buf(&mut request).await.expect("reads") > 0, "a whole body");
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.expect("writes");
    request.split_off(head)
}

fn has(body: &[u8], what: &[u8]) -> usize {
    body.windows(what.len()).filter(|w| *w == what).count()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_does_with_a_message_joins_the_trace_of_its_headers() {
    let collector = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let url = format!("http://{}/v1/traces", collector.local_addr().expect("bound"));
    let mesh = Mesh::with(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &url)]).await;
    let (agent, mut deliveries) = mesh.connect("agent", 5).await;
    let headers = json!({"traceparent": format!("00-{TRACE}-{PARENT}-01"), "lang": "en"});
    let with =
        Outgoing::new("agent", MessageType::Data, &1).and_then(|m| m.headers(&headers)).expect("a message");
    agent.send(with).await.expect("sent");
    agent.send(Outgoing::new("agent", MessageType::Data, &2).expect("a message")).await.expect("sent");
    let first = next(&mut deliveries).await;
    let travelled: serde_json::Value =
        serde_json::from_str(first.headers().expect("headers").get()).expect("JSON");
    assert_eq!(travelled, headers, "they reach the agent as they were");
    first.ack_confirmed().await.expect("acknowledged");
    next(&mut deliveries).await.ack_confirmed().await.expect("acknowledged");
    agent.close().await;
    let stopping = mesh.stop();
    let collecting = async {
        let mut body = Vec::new();
        while has(&body, &bytes(PARENT)) < 2 {
            let (mut stream, _) = collector.accept().await.expect("a connection");
            body.extend(post(&mut stream).await);
        }
        body
    };
    let (_, body) = tokio::join!(stopping, collecting);
    for (what, times) in
        [(&bytes(TRACE)[..], 2), (&bytes(PARENT), 2), (b"send agent", 1), (b"deliver agent", 1)]
    {
        assert_eq!(has(&body, what), times, "{}", String::from_utf8_lossy(&body));
    }
}
