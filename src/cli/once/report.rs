//! How a task went: the exit status of `once`, and its part of a job's summary.

use std::time::Duration;

use super::OnceArgs;
use crate::cli::listen::summary::{append, cell};

/// The result of a task.
pub(super) struct Report {
    pub(super) code: u8,
    how: String,
    /// How long the command ran; `None` if it was not started.
    ran: Option<Duration>,
}

impl Report {
    /// The result of a command that was not started.
    pub(super) fn new(code: u8, how: impl Into<String>) -> Self {
        Self { code, how: how.into(), ran: None }
    }

    /// The same result, of a command that ran for so long.
    pub(super) fn after(self, took: Duration) -> Self {
        Self { ran: Some(took), ..self }
    }

    /// Appends to the job's summary, if this runs in a job.
    pub(super) fn tell(&self, args: &OnceArgs) {
        append(|| self.markdown(&args.key, &what(args)));
    }

    fn markdown(&self, key: &str, what: &str) -> String {
        let took = self.ran.map_or("not run".to_owned(), |took| {
            let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
            humantime::format_duration(Duration::from_millis(millis)).to_string()
        });
        format!(
            "\n\n### postbell once: {}\n\n| command | how it went | exit status | time |\n| --- | --- | ---: | ---: |\n\
             | {} | {} | {} | {} |\n\n",
            cell(key),
            cell(what),
            cell(&self.how),
            self.code,
            cell(&took)
        )
    }
}

/// The program's name and the number of its arguments: the arguments may hold secrets.
fn what(args: &OnceArgs) -> String {
    let program = args.command.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default();
    match args.command.len().saturating_sub(1) {
        0 => program,
        1 => format!("{program} (1 argument)"),
        n => format!("{program} ({n} arguments)"),
    }
}
