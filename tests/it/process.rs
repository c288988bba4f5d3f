//! A broker as a process of its own, which can be killed and measured.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use postbell::devdb::KeptPort;

use crate::harness::TestDb;

pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// A broker that serves, and that is killed by SIGKILL when this is dropped.
    pub(crate) fn start(db: &TestDb, agents: &KeptPort) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_postbell"))
            .args(["serve", "--http", "127.0.0.1:0", "--listen", &agents.address().to_string()])
            .env("DATABASE_URL", db.url())
            .env("POSTBELL_LOG", "info")
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawns");
        let log = BufReader::new(child.stderr.take().expect("stderr"));
        let mut lines = log.lines().map_while(Result::ok);
        let up = lines.by_ref().find(|l| l.contains("the broker is up") || l.starts_with("postbell:"));
        assert!(up.as_ref().is_some_and(|l| !l.starts_with("postbell:")), "{up:?}");
        // Reads on, since a full pipe would stop the broker.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child }
    }

    /// The most memory it ever had, in bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("kB") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port for a server that a test starts, kept until this is dropped.
pub(crate) fn kept_port() -> KeptPort {
    KeptPort::take().expect("a free port")
}
