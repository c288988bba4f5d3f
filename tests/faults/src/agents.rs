//! The agent processes, and the tasks that bring their lines into the ledger.

use std::path::{Path, PathBuf};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{ChildStdout, Command};
use tokio::task::JoinSet;

use crate::agent::parse;
use crate::ledger::Seen;
use crate::load::SharedLedger;
use crate::postgres::inbox_name;
use crate::process::Process;

/// Inboxes of agents that only take.
pub const AGENTS: u8 = 8;
/// All inboxes: of the agents that only take, and of two that also send.
pub const INBOXES: u8 = AGENTS + 2;
/// The first inboxes have two processes each, which may be at two brokers.
const DOUBLES: u8 = 2;
/// Processes that can be stopped and killed.
pub const PROCESSES: u8 = AGENTS + DOUBLES;

const _: () = assert!(DOUBLES <= AGENTS);

/// The command under which this crate's program is an agent.
pub const COMMAND: &str = "agent";

/// The ledger's number for a sender; a sender is a task of the campaign and has no process of its own.
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
    /// The URL of the proxy before the brokers.
    pub url: String,
    /// The folder of the logs.
    pub logs: PathBuf,
}

/// Starts an agent process. A task in `ears` brings its lines into the ledger, and ends with the process.
///
/// # Errors
/// The program cannot be run.
pub fn start(
    setup: &Setup,
    process: u8,
    ledger: &SharedLedger,
    ears: &mut JoinSet<()>,
) -> anyhow::Result<Process> {
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

/// Brings an agent's lines into the ledger. The pipe outlives its writer, so lines from before a kill are read too.
async fn hear(stdout: ChildStdout, process: u8, ledger: SharedLedger) {
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
