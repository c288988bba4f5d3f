//! The peers' programs: brought by pip and npm in pinned versions, into a folder below `target/` that goes when the
//! run is over.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::timeout;

/// Longer than any download takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// The installed programs, until this is dropped.
pub(super) struct PeerPackages {
    folder: TempDir,
}

impl PeerPackages {
    /// Copies the peers' folder to a new one, with an interpreter of Python of its own.
    ///
    /// # Errors
    /// This program's sources are gone, or there is no Python with venv.
    pub(super) async fn begin() -> anyhow::Result<Self> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (peers, target) = (package.join("peers"), package.join("../target"));
        std::fs::create_dir_all(&target)?;
        let folder = tempfile::Builder::new().prefix("loadtest-peers-").tempdir_in(target)?;
        copy(&peers, folder.path()).with_context(|| format!("{} cannot be copied", peers.display()))?;
        let python = std::env::var("POSTBELL_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let installed = Self { folder };
        installed.finish(Command::new(python).args(["-m", "venv"]).arg(installed.venv())).await?;
        Ok(installed)
    }

    /// Brings all that one peer needs.
    ///
    /// # Errors
    /// A package cannot be had here.
    pub(super) async fn bring(&self, peer: &str) -> anyhow::Result<()> {
        let folder = self.folder(peer);
        let wanted = folder.join("requirements.txt");
        if wanted.exists() {
            let mut pip = Command::new(self.venv().join("bin/pip"));
            self.finish(pip.args(["install", "--quiet", "-r"]).arg(wanted)).await?;
        }
        if folder.join("package.json").exists() {
            let mut npm = self.program("npm", &folder);
            self.finish(npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])).await?;
        }
        Ok(())
    }

    /// The process that makes a peer's queue, or takes from it: what its folder has.
    pub(super) fn taker(&self, peer: &str) -> Command {
        let folder = self.folder(peer);
        let (program, script) =
            if folder.join("take.py").exists() { ("python", "take.py") } else { ("node", "take.mjs") };
        let mut command = self.program(program, &folder);
        command.arg(script);
        command
    }

    /// A program of the interpreter's folder, in that of a peer.
    pub(super) fn program(&self, name: &str, folder: &Path) -> Command {
        let programs = self.venv().join("bin");
        let paths = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(programs.clone()).chain(std::env::split_paths(&paths));
        let mut command = Command::new(programs.join(name));
        command.current_dir(folder).env("PATH", std::env::join_paths(paths).unwrap_or_default());
        command
    }

    /// The packages that a peer's folder pins, with their versions.
    pub(super) fn pins(&self, peer: &str) -> Vec<String> {
        let folder = self.folder(peer);
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).unwrap_or_default();
        let mut pins: Vec<String> = text("requirements.txt").lines().map(|l| l.replace("==", " ")).collect();
        let manifest: serde_json::Value = serde_json::from_str(&text("package.json")).unwrap_or_default();
        let packages = manifest["dependencies"].as_object().into_iter().flatten();
        pins.extend(
            packages.map(|(name, version)| format!("{name} {}", version.as_str().unwrap_or_default())),
        );
        pins
    }

    fn folder(&self, peer: &str) -> PathBuf {
        self.folder.path().join(peer)
    }

    fn venv(&self) -> PathBuf {
        self.folder.path().join("venv")
    }

    async fn finish(&self, command: &mut Command) -> anyhow::Result<()> {
        answer(command).await.map(|_| ())
    }
}

/// Runs a command to its end and returns its standard output.
///
/// # Errors
/// The command cannot be started, fails, or does not end.
pub(super) async fn answer(command: &mut Command) -> anyhow::Result<String> {
    let name = Path::new(command.as_std().get_program()).file_name().unwrap_or_default().to_owned();
    let name = name.to_string_lossy();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().with_context(|| format!("there is no {name}"))?;
    let ended = timeout(PATIENCE, child.wait_with_output());
    let ended = ended.await.with_context(|| format!("{name} did not end"))??;
    if !ended.status.success() {
        let said = String::from_utf8_lossy(&ended.stderr);
        bail!(
            "{name} failed: {}",
            said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default()
        );
    }
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

/// Copies a folder with its folders, but for what somebody installed there.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let (entry, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if entry.is_dir() && name != "node_modules" && name != "__pycache__" {
            copy(&entry, &to.join(name))?;
        } else if entry.is_file() {
            std::fs::copy(&entry, to.join(name))?;
        }
    }
    Ok(())
}
