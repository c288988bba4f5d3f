//! The agent processes, and the ledger's ear at what they tell.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStdout, Command};
use tokio::task::JoinSet;

use crate::agent::parse;
use crate::ledger::Seen;
use crate::load::Shared;
use crate::postgres::inbox_name;
use crate::process::Process;

/// Inboxes of agents that only take.
pub const AGENTS: u8 = 8;
/// With those of the agents that also send.
pub const INBOXES: u8 = AGENTS + 2;
/// The first inboxes have two processes each, which may be at two brokers.
const DOUBLES: u8 = 2;
/// Processes that can be stopped and killed.
pub const PROCESSES: u8 = AGENTS + DOUBLES;

const _: () = assert!(DOUBLES <= AGENTS);

/// The command under which this crate's program is an agent.
pub const COMMAND: &str = "agent";

/// The number by which the ledger knows the sender of an inbox, which is no process of its own.
pub fn sender_process(inbox: u8) -> u8 {
    PROCESSES + inbox - AGENTS
}

/// The inbox of a process.
pub fn inbox_of(process: u8) -> u8 {
    if process < AGENTS { process } else { process - AGENTS }
}

/// How agent processes are started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The program that is an agent under [`COMMAND`].
    pub program: PathBuf,
    /// The proxy before the brokers.
    pub url: String,
    /// Where logs go.
    pub logs: PathBuf,
}

/// Starts one; what it tells is written into the ledger by a task that ends with it.
///
/// # Errors
/// The program cannot be run.
pub fn start(setup: &Setup, process: u8, ledger: &Shared, ears: &mut JoinSet<()>) -> anyhow::Result<Process> {
    let inbox = inbox_of(process);
    let mut command = Command::new(&setup.program);
    command.arg(COMMAND).args(["--url", &setup.url, "--agent", &inbox_name(inbox)]);
    command.args(["--inbox", &inbox.to_string(), "--instance", &format!("p{process}")]).env_clear();
    let mut started = Process::start(command, &log(&setup.logs, process))?;
    if let Some(stdout) = started.stdout() {
        ears.spawn(hear(stdout, process, ledger.clone()));
    }
    Ok(started)
}

/// What was written before a kill is still read: the pipe outlives its writer.
async fn hear(stdout: ChildStdout, process: u8, ledger: Shared) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // The last line of a killed process may be torn.
        if let Some((n, what, attempt, at)) = parse(&line) {
            let at_ms = ledger.lock().ms(at);
            ledger.see(n, Seen { at_ms, attempt, process, what });
        }
    }
}

fn log(folder: &Path, process: u8) -> PathBuf {
    folder.join(format!("agent-{process}.log"))
}
