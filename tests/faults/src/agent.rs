//! The agent process, `soak agent`: writes a line to standard output for each event that it sees, so that the
//! events are known whatever kills the process.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postbell_client::{Builder, Client, Deliveries, State};

use crate::handler::handle_all;
use crate::ledger::What;

/// Every agent's token: the brokers listen on loopback, and the database is thrown away.
pub const TOKEN: &str = "pb_faults";
/// The most deliveries that an agent holds at once.
pub const WINDOW: u32 = 32;
/// The heartbeat; silence is noticed after two.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
const CONNECT_AGAIN: Duration = Duration::from_millis(200);

/// How an agent is started.
#[derive(clap::Args, Clone, Debug)]
pub struct AgentArgs {
    /// Where the brokers are
    #[arg(long)]
    pub url: String,
    /// The agent's name
    #[arg(long)]
    pub agent: String,
    /// The name of this process of the agent's
    #[arg(long)]
    pub instance: String,
    /// The position of its inbox
    #[arg(long)]
    pub inbox: u8,
}

/// Runs an agent until it is killed, or its standard output is closed.
pub fn main(args: AgentArgs) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return ExitCode::FAILURE;
    };
    runtime.block_on(async {
        let (client, deliveries) = connect(&args.url, &args.agent, &args.instance).await;
        let states = tokio::spawn(log_states(client));
        handle_all(deliveries, args.inbox, Arc::new(tell)).await;
        // The task ends with the client.
        let _ = states.await;
    });
    // Closed for good: the broker refused it, which no fault excuses.
    ExitCode::FAILURE
}

/// Connects, however long it takes; from then on the client keeps the connection up.
pub async fn connect(url: &str, agent: &str, instance: &str) -> (Client, Deliveries) {
    loop {
        let builder = Builder::new(url, agent, TOKEN).window(WINDOW).instance(instance).heartbeat(HEARTBEAT);
        match builder.connect().await {
            Ok(connected) => return connected,
            Err(e) => {
                log(&format!("cannot connect: {e}"));
                tokio::time::sleep(CONNECT_AGAIN).await;
            }
        }
    }
}

/// Logs each change of the connection to standard error.
async fn log_states(client: Client) {
    let mut states = client.state();
    // Only the state is kept: a client's handle would keep the connection up.
    drop(client);
    loop {
        let state = states.borrow_and_update().clone();
        match state {
            State::Connected { broker, session } => log(&format!("session {session} at broker {broker}")),
            State::Reconnecting => log("reconnecting"),
            State::Closed(e) => return log(&format!("closed: {e}")),
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

fn log(line: &str) {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    // Perhaps nobody reads the log any more.
    let _ = writeln!(std::io::stderr(), "{now} {line}");
}

fn tell(line: u64, what: What, attempt: u32) {
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    // Whole lines, written at once. Without a reader this process has no purpose.
    if writeln!(std::io::stdout(), "{} {line} {attempt} {now_ms}", letter(what)).is_err() {
        std::process::exit(1);
    }
}

fn letter(what: What) -> char {
    match what {
        What::Delivered => 'D',
        What::Handled => 'H',
        What::Confirmed => 'C',
        What::GivenBack => 'G',
        What::Dead => 'X',
    }
}

/// Reads a line that [`main`] wrote: the ledger's line, the event, the attempt and the time.
pub fn parse(told: &str) -> Option<(u64, What, u16, SystemTime)> {
    let mut words = told.split(' ');
    let what = match words.next()? {
        "D" => What::Delivered,
        "H" => What::Handled,
        "C" => What::Confirmed,
        "G" => What::GivenBack,
        "X" => What::Dead,
        _ => return None,
    };
    let (line, attempt) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let at = UNIX_EPOCH + Duration::from_millis(words.next()?.parse().ok()?);
    words.next().is_none().then_some((line, what, attempt, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_agent_did_not_finish_saying_is_not_read() {
        let at = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(parse("H 12 3 1700000000123"), Some((12, What::Handled, 3, at)));
        for torn in ["", "H", "H 12 3", "H 12 3 ", "Q 12 3 4", "H 12 3 4 5"] {
            assert_eq!(parse(torn), None, "{torn:?}");
        }
    }
}
