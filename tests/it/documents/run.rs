//! Runs the commands of a document one after the other, as a reader types them into a shell: a variable that one
//! exports is there for the next, in a folder that looks like a clone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::blocks::{Block, How};
use crate::harness::TestDb;
use crate::mesh::PATIENCE;
use crate::process::kept_port;
use postbell::devdb::KeptPort;

/// A block that takes longer hangs. The slowest is the checklist, on a debug build.
const BLOCK_PATIENCE: std::time::Duration = PATIENCE.saturating_mul(3);
/// Stands in a document where only the reader knows the value.
const ELLIPSIS: char = '…';

/// The reader at the shell.
pub(super) struct Reader {
    folder: tempfile::TempDir,
    place: PathBuf,
    variables: BTreeMap<String, String>,
    given: Vec<String>,
    running: Vec<Running>,
    /// The ports of the broker that the documents start.
    _ports: [KeptPort; 2],
}

/// A command that was started and left running.
struct Running {
    child: Child,
    said: mpsc::UnboundedReceiver<String>,
}

impl Reader {
    /// A reader with a database of their own, and ports that nobody else has.
    pub(super) fn new(db: &TestDb) -> Self {
        let folder = tempfile::Builder::new().prefix("postbell-docs-").tempdir().unwrap();
        let clone = folder.path().join("postbell");
        clone_of(Path::new(env!("CARGO_MANIFEST_DIR")), &clone);
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_postbell"), bin.join("postbell")).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let ports = [kept_port(), kept_port()];
        let [agents, http] = ports.each_ref().map(KeptPort::address);
        let given = [
            ("PATH", format!("{}:{path}", bin.display())),
            ("HOME", folder.path().display().to_string()),
            ("LANG", "C.UTF-8".to_owned()),
            ("DATABASE_URL", db.url()),
            ("POSTBELL_LISTEN", agents.to_string()),
            ("POSTBELL_HTTP", http.to_string()),
            ("POSTBELL_URL", format!("tcp://{agents}")),
        ];
        let variables: BTreeMap<_, _> = given.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        let given = given.iter().map(|(k, _)| (*k).to_owned()).collect();
        Self { folder, place: clone, variables, given, running: Vec::new(), _ports: ports }
    }

    /// Types a block.
    pub(super) async fn types(&mut self, block: &Block) {
        let text = self.completed(block);
        match &block.how {
            How::Run if block.language == "sql" => {
                let psql = "psql \"$DATABASE_URL\" -X -v ON_ERROR_STOP=1 -f -";
                self.runs(block, &format!("{psql} <<'SQL'\n{text}\nSQL")).await;
            }
            How::Run => self.runs(block, &text).await,
            How::Stays(until) => self.starts(block, &text, until).await,
            How::Cloud(_) | How::By(..) => {}
        }
    }

    /// The block without the lines that give a variable which the test has given already.
    fn completed(&self, block: &Block) -> String {
        let is_given = |line: &&str| {
            let Some(exports) = line.strip_prefix("export ").filter(|_| line.contains(ELLIPSIS)) else {
                return false;
            };
            let names: Vec<_> = exports.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
            !names.is_empty() && names.iter().all(|(name, _)| self.given.iter().any(|given| given == name))
        };
        let text: Vec<&str> = block.text.lines().filter(|line| !is_given(line)).collect();
        let text = text.join("\n");
        let left = text.lines().find(|line| line.split('#').next().unwrap_or("").contains(ELLIPSIS));
        assert!(left.is_none() || !self.is_run(block), "only the reader knows {left:?}: {block}");
        text
    }

    fn is_run(&self, block: &Block) -> bool {
        matches!(block.how, How::Run | How::Stays(_))
    }

    fn shell(&self, script: &str) -> Command {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(&self.place);
        command.env_clear().envs(&self.variables).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, so that everything it starts can be ended with it.
        command.process_group(0);
        command
    }

    async fn runs(&mut self, block: &Block, text: &str) {
        let state = self.folder.path().join("state");
        let kept = format!("{text}\nenv -0 > '{0}.env'; pwd > '{0}.place'", state.display());
        let child = self.shell(&kept).spawn().expect("bash");
        let output = timeout(BLOCK_PATIENCE, child.wait_with_output()).await;
        let output = output.unwrap_or_else(|_| panic!("it does not end: {block}")).expect("waits");
        let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (said(&output.stdout), said(&output.stderr));
        assert!(
            output.status.success(),
            "{}: {block}\n--- stdout\n{stdout}\n--- stderr\n{stderr}",
            output.status
        );
        let place = std::fs::read_to_string(state.with_extension("place")).unwrap();
        self.place = PathBuf::from(place.trim_end());
        let environment = std::fs::read(state.with_extension("env")).unwrap();
        let pairs = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        self.variables = pairs
            .filter_map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())))
            .filter(|(name, _)| !matches!(name.as_str(), "_" | "SHLVL" | "PWD" | "OLDPWD"))
            .collect();
    }

    async fn starts(&mut self, block: &Block, text: &str, until: &str) {
        let mut child = self.shell(text).spawn().expect("bash");
        let (says, said) = mpsc::unbounded_channel();
        pass_on(child.stdout.take().unwrap(), says.clone());
        pass_on(child.stderr.take().unwrap(), says);
        let mut running = Running { child, said };
        let mut seen = String::new();
        while !seen.contains(until) {
            let line = timeout(BLOCK_PATIENCE, running.said.recv()).await;
            let line = line.unwrap_or_else(|_| panic!("it never says {until:?}: {block}\n{seen}"));
            let Some(line) = line else { panic!("it ended before it said {until:?}: {block}\n{seen}") };
            seen.push_str(&line);
            seen.push('\n');
        }
        self.running.push(running);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(group) = self.child.id() else { return };
        let _ = std::process::Command::new("kill").args(["-KILL", "--", &format!("-{group}")]).status();
    }
}

/// Reads on for as long as the command writes: a full pipe would stop it.
fn pass_on(stream: impl AsyncRead + Unpin + Send + 'static, says: mpsc::UnboundedSender<String>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let _ = says.send(line);
        }
    });
}

/// A folder with a link to every file of the repository, so that new files are made beside the links.
fn clone_of(repository: &Path, clone: &Path) {
    std::fs::create_dir(clone).unwrap();
    for entry in std::fs::read_dir(repository).unwrap() {
        let name = entry.unwrap().file_name();
        if name != "target" && name != ".git" {
            std::os::unix::fs::symlink(repository.join(&name), clone.join(&name)).unwrap();
        }
    }
}
