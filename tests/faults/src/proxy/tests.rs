use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// The client is told that its connection is gone, by a reset and not by an end in order.
async fn is_reset(socket: &mut TcpStream) {
    let told = tokio::time::timeout(Duration::from_secs(10), socket.read(&mut [0])).await;
    assert!(told.expect("the client is told").is_err(), "a reset, not an end in order");
}

/// A server that echoes, behind a proxy.
async fn echo() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = socket.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    Proxy::start(vec![address], 1).await.expect("a proxy")
}

async fn echoed(socket: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    socket.write_all(text).await?;
    let mut back = vec![0; text.len()];
    socket.read_exact(&mut back).await?;
    Ok(back)
}

#[tokio::test]
async fn bytes_come_through_whole_whatever_the_flow() {
    let proxy = echo().await;
    let mut socket = TcpStream::connect(proxy.address).await.expect("connects");
    let text: Vec<u8> = (0..50_000u32).map(|n| n as u8).collect();
    assert_eq!(echoed(&mut socket, b"as it is").await.expect("flows"), b"as it is");
    proxy.inflict(Net::ByteByByte);
    assert_eq!(echoed(&mut socket, &text[..1_000]).await.expect("flows"), text[..1_000]);
    proxy.inflict(Net::Delay { ms: 1 });
    let (mut read, mut write) = socket.split();
    let mut back = vec![0; text.len()];
    let (sent, came) = tokio::join!(write.write_all(&text), read.read_exact(&mut back));
    assert!(sent.is_ok() && came.is_ok());
    assert_eq!(back, text);
}

#[tokio::test]
async fn a_cut_is_told_to_the_client_and_the_next_connection_works() {
    let proxy = echo().await;
    let mut socket = TcpStream::connect(proxy.address).await.expect("connects");
    echoed(&mut socket, b"x").await.expect("flows");
    proxy.inflict(Net::Cut);
    is_reset(&mut socket).await;
    let mut next = TcpStream::connect(proxy.address).await.expect("connects");
    assert_eq!(echoed(&mut next, b"y").await.expect("flows"), b"y");
}

#[tokio::test]
async fn a_black_hole_keeps_what_it_took_and_gives_it_back() {
    let proxy = echo().await;
    let mut socket = TcpStream::connect(proxy.address).await.expect("connects");
    echoed(&mut socket, b"x").await.expect("flows");
    proxy.inflict(Net::BlackHole);
    socket.write_all(b"lost?").await.expect("the socket takes it");
    let silence = tokio::time::timeout(Duration::from_millis(50), socket.read(&mut [0])).await;
    assert!(silence.is_err(), "nothing comes back");
    proxy.heal();
    let mut back = [0; 5];
    socket.read_exact(&mut back).await.expect("comes back");
    assert_eq!(&back, b"lost?");
}

#[tokio::test]
async fn a_half_open_connection_swallows_and_stays_silent() {
    let proxy = echo().await;
    let mut socket = TcpStream::connect(proxy.address).await.expect("connects");
    echoed(&mut socket, b"x").await.expect("flows");
    proxy.inflict(Net::HalfOpen { told: End::Server });
    proxy.heal();
    // An echo may still come until the proxy's task has seen the rule; after that never again.
    loop {
        socket.write_all(b"y").await.expect("the socket takes it");
        let answer = tokio::time::timeout(Duration::from_millis(100), socket.read(&mut [0])).await;
        match answer {
            Ok(Ok(n)) if n > 0 => {}
            Ok(end) => panic!("the client was told: {end:?}"),
            Err(_) => break,
        }
    }
    let mut next = TcpStream::connect(proxy.address).await.expect("connects");
    assert_eq!(echoed(&mut next, b"z").await.expect("flows"), b"z");
}

#[tokio::test]
async fn a_reset_at_one_end_is_one_at_the_other() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy = Proxy::start(vec![listener.local_addr().expect("its address")], 1).await.expect("a proxy");
    let mut client = TcpStream::connect(proxy.address).await.expect("connects");
    let (mut server, _) = listener.accept().await.expect("accepts");
    client.write_all(b"x").await.expect("writes");
    server.read_exact(&mut [0]).await.expect("reads");
    server.set_zero_linger().expect("set");
    drop(server);
    // The client says nothing itself.
    is_reset(&mut client).await;
}

#[tokio::test]
async fn a_shut_proxy_resets_everybody_until_it_is_healed() {
    let proxy = echo().await;
    let mut socket = TcpStream::connect(proxy.address).await.expect("connects");
    echoed(&mut socket, b"x").await.expect("flows");
    proxy.refuse();
    let mut refused = TcpStream::connect(proxy.address).await.expect("connects");
    is_reset(&mut refused).await;
    assert_eq!(echoed(&mut socket, b"y").await.expect("flows"), b"y", "it was open before");
    proxy.shut();
    is_reset(&mut socket).await;
    let mut refused = TcpStream::connect(proxy.address).await.expect("connects");
    is_reset(&mut refused).await;
    proxy.heal();
    let mut next = TcpStream::connect(proxy.address).await.expect("connects");
    assert_eq!(echoed(&mut next, b"z").await.expect("flows"), b"z");
    assert_eq!(proxy.led(), 2, "the refused reached no target");
}

#[tokio::test]
async fn targets_that_are_told_late_take_turns() {
    let proxy = Proxy::in_turn(Vec::new()).await.expect("a proxy");
    let mut early = TcpStream::connect(proxy.address).await.expect("connects");
    // There is nowhere to lead it.
    is_reset(&mut early).await;
    let listeners = [TcpListener::bind("127.0.0.1:0").await, TcpListener::bind("127.0.0.1:0").await];
    let listeners = listeners.map(|bound| bound.expect("a port"));
    proxy.lead_to(listeners.iter().map(|l| l.local_addr().expect("its address")).collect());
    for _ in 0..2 {
        let _clients = [TcpStream::connect(proxy.address).await, TcpStream::connect(proxy.address).await];
        for listener in &listeners {
            listener.accept().await.expect("its turn");
        }
    }
}
