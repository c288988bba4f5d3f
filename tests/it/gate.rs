//! A TCP forwarder between two processes that can be shut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards each connection to the next of its targets that answers; ends with its owner.
pub(crate) struct Gate {
    pub(crate) address: SocketAddr,
    accepting: JoinHandle<()>,
    is_open: watch::Sender<bool>,
    admits: watch::Sender<bool>,
    cuts: watch::Sender<u64>,
    passed: Arc<AtomicUsize>,
}

impl Gate {
    /// A gate whose targets are told later, as it has its address before they have theirs. Each connection goes to
    /// the next target, with no memory of where a client was before.
    pub(crate) async fn late() -> (Self, watch::Sender<Vec<SocketAddr>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("port");
        let address = listener.local_addr().expect("bound");
        let (is_open, open) = watch::channel(true);
        let (admits, admitting) = watch::channel(true);
        let (cuts, cut) = watch::channel(0);
        let (targets, told) = watch::channel(Vec::new());
        let passed = Arc::new(AtomicUsize::new(0));
        let accepting = tokio::spawn(accept(listener, told, open, admitting, cut, passed.clone()));
        (Self { address, accepting, is_open, admits, cuts, passed }, targets)
    }

    /// Cuts every connection; new connections are accepted and cut at once.
    pub(crate) fn shut(&self) {
        self.is_open.send_replace(false);
    }

    /// Open connections go on; new connections are cut at once.
    pub(crate) fn admit_no_more(&self) {
        self.admits.send_replace(false);
    }

    /// Lets new connections through again.
    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Cuts every open connection.
    pub(crate) fn cut(&self) {
        self.cuts.send_modify(|n| *n += 1);
    }

    /// How many connections went through so far.
    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shut();
    }
}

async fn accept(
    listener: TcpListener,
    targets: watch::Receiver<Vec<SocketAddr>>,
    open: watch::Receiver<bool>,
    admitting: watch::Receiver<bool>,
    cut: watch::Receiver<u64>,
    passed: Arc<AtomicUsize>,
) {
    let mut turn = 0;
    while let Ok((socket, _)) = listener.accept().await {
        let targets = targets.borrow().clone();
        if !*open.borrow() || !*admitting.borrow() {
            continue;
        }
        let (start, mut open, mut cut, passed) = (turn, open.clone(), cut.clone(), passed.clone());
        cut.mark_unchanged();
        turn += 1;
        tokio::spawn(async move {
            let mut socket = socket;
            for n in 0..targets.len() {
                let Ok(mut target) = TcpStream::connect(targets[(start + n) % targets.len()]).await else {
                    continue;
                };
                passed.fetch_add(1, Ordering::Relaxed);
                tokio::select! {
                    _ = copy_bidirectional(&mut socket, &mut target) => {}
                    _ = open.wait_for(|open| !open) => {}
                    _ = cut.changed() => {}
                }
                return;
            }
        });
    }
}
