//! The choice of rows for a command: by number, by inbox, or all. `dead` and `aside` share these options.

use clap::{ArgGroup, Args};

use crate::cli::settings::DatabaseArgs;

#[derive(Args)]
pub(in crate::cli) struct CommonArgs {
    #[command(flatten)]
    pub(in crate::cli) database: DatabaseArgs,
    /// Print JSON
    #[arg(long, env = "POSTBELL_JSON")]
    pub(in crate::cli) json: bool,
}

#[derive(Args)]
#[command(group = ArgGroup::new("chosen").required(true).args(["ids", "inbox", "all"]))]
pub(in crate::cli) struct ChosenArgs {
    /// Their numbers, as `list` shows them
    #[arg(value_name = "NUMBER")]
    pub(in crate::cli) ids: Vec<i64>,
    /// All of this inbox
    #[arg(long, env = "POSTBELL_INBOX")]
    pub(in crate::cli) inbox: Option<String>,
    /// All of them
    #[arg(long, env = "POSTBELL_ALL")]
    all: bool,
    #[command(flatten)]
    pub(in crate::cli) common: CommonArgs,
}

impl ChosenArgs {
    /// Warns if some of the named numbers are not there (any more). The other rows are changed all the same.
    pub(in crate::cli) fn warn_of_unknown(&self, known: u64, are_not: &str) {
        let asked = self.ids.len() as u64;
        if self.inbox.is_none() && known < asked {
            tracing::warn!("{} of the {asked} named are {are_not}", asked - known);
        }
    }
}
