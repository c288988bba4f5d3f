//! A real Prometheus that scrapes each second, for one test.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postbell::devdb::KeptPort;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::mesh::PATIENCE;
use crate::process::kept_port;

pub(super) struct Prometheus {
    port: KeptPort,
    /// Waits for the end of its input and then ends the server, so that the server ends however the test does.
    shell: Child,
    _data: TempDir,
}

impl Prometheus {
    /// A Prometheus that scrapes these brokers as job `postbell`, with these rules; `None` if it is not installed.
    pub(super) async fn start(brokers: &[SocketAddr], rules: &Path) -> Option<Self> {
        Command::new("prometheus").arg("--version").output().ok()?;
        let data = tempfile::tempdir().expect("a folder");
        let targets: Vec<String> = brokers.iter().map(|b| format!("'{b}'")).collect();
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: ['{}']\n\
             scrape_configs: [{{ job_name: postbell, static_configs: [{{ targets: [{}] }}] }}]\n",
            rules.display(),
            targets.join(", ")
        );
        let file = data.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("writes");
        let port = kept_port();
        let address = port.address();
        let shell = Command::new("sh")
            .args(["-c", "\"$@\" & read -r _; kill $!; wait", "sh", "prometheus", "--log.level=warn"])
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", data.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("spawns");
        let prometheus = Self { port, shell, _data: data };
        let up = async {
            while TcpStream::connect(address).await.is_err() || prometheus.get("/-/ready").await.0 != 200 {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, up).await.expect("Prometheus starts");
        Some(prometheus)
    }

    /// The values of an instant query, now.
    pub(super) async fn query(&self, expression: &str) -> Vec<f64> {
        let data = self.api(&format!("/api/v1/query?query={}", encoded(expression)), expression).await;
        let result = data["result"].as_array().expect("a vector").iter();
        result.map(|series| series["value"][1].as_str().expect("text").parse().expect("a number")).collect()
    }

    /// The values of a label of the series that a selector finds.
    pub(super) async fn label_values(&self, (selector, label): &(String, String)) -> Vec<Value> {
        let path = format!("/api/v1/label/{label}/values?match[]={}", encoded(selector));
        self.api(&path, selector).await.as_array().expect("a list").clone()
    }

    /// Every rule, as Prometheus understood it.
    pub(super) async fn rules(&self) -> Vec<Value> {
        let data = self.api("/api/v1/rules", "the rules").await;
        let groups = data["groups"].as_array().expect("groups").iter();
        groups.flat_map(|group| group["rules"].as_array().expect("rules").clone()).collect()
    }

    async fn api(&self, path: &str, what: &str) -> Value {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{what}: {body}");
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        answer["data"].clone()
    }

    /// Asks by HTTP/1.0, so that the body comes in one piece.
    async fn get(&self, path: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.port.address()).await.expect("connects");
        let request = format!("GET {path} HTTP/1.0\r\nhost: {}\r\n\r\n", self.port.address());
        socket.write_all(request.as_bytes()).await.expect("writes");
        let mut answer = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut answer)).await.expect("answers").expect("reads");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status"), body.to_owned())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}
