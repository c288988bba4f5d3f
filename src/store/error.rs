//! Errors of the database, in sentences.

mod fault;
mod sentence;

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::{DbError, Severity, SqlState};

pub(crate) use fault::Fault;

/// The server process ended: by an operator, or since another one crashed.
const ENDED: [SqlState; 2] = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN];

/// A failure of the database or of the way to it. `Display` is a sentence for a person.
pub struct StoreError {
    sentence: String,
    sqlstate: Option<SqlState>,
    fault: Fault,
    /// See [`is_of_settings`](Self::is_of_settings).
    is_of_settings: bool,
    /// See [`is_of_plan`](Self::is_of_plan).
    of_plan: bool,
    /// See [`is_cut_off`](Self::is_cut_off).
    cut_off: bool,
    /// See [`is_answered`](Self::is_answered).
    answered: bool,
}

impl StoreError {
    fn new(sentence: String, fault: Fault) -> Self {
        Self {
            sentence,
            sqlstate: None,
            fault,
            is_of_settings: false,
            of_plan: false,
            cut_off: false,
            answered: false,
        }
    }

    /// A failure that will be the same when tried again.
    pub fn refused(sentence: impl Into<String>) -> Self {
        Self::new(sentence.into(), Fault::Ours)
    }

    /// A failure that may pass.
    pub fn unavailable(sentence: impl Into<String>) -> Self {
        Self::new(sentence.into(), Fault::Passing)
    }

    /// A statement that was not carried out, since a table was altered after it was prepared. The connection is given up,
    /// and another one takes the statement.
    pub(super) fn other_plan() -> Self {
        let sentence = "a table was altered while a connection was open, which was closed; try again";
        Self { of_plan: true, ..Self::unavailable(sentence) }
    }

    /// Whether the connection's prepared statement is to blame: a column that the statement returns has another type by
    /// now, or a trigger deallocated the statement.
    pub(super) fn is_of_plan(&self) -> bool {
        self.of_plan
    }

    /// The error of a statement that failed where a trigger of the user's had changed the connection's settings.
    pub(super) fn of_settings(self) -> Self {
        Self { is_of_settings: true, ..self }
    }

    /// Whether the connection's settings were not as they were made, and nothing was done. Another connection may take the
    /// statement.
    pub(super) fn is_of_settings(&self) -> bool {
        self.is_of_settings
    }

    /// Whether the same call may succeed later, because the server, the connection or the time was at fault and not
    /// the request.
    pub fn is_retryable(&self) -> bool {
        matches!(self.fault, Fault::Passing | Fault::Slow)
    }

    /// Whether the server gave the statement up since that took too long. Not a lock: there the server waits less.
    pub(crate) fn is_slow(&self) -> bool {
        self.sqlstate() == Some("57014")
    }

    /// Whether an open connection was lost while its statement ran. The server process may have ended at one row.
    pub fn is_cut_off(&self) -> bool {
        self.cut_off
    }

    /// Whether the server answered a statement with this error and went on: a trigger may have raised it, whatever the code.
    pub(crate) fn is_answered(&self) -> bool {
        self.answered
    }

    /// Whether a row of the statement may be to blame. In a search a row that meets this alone is; `store/blame.rs` says when a
    /// search begins.
    pub(crate) fn may_be_of_a_row(&self) -> bool {
        self.answered || self.cut_off
    }

    /// An error while a connection was opened: no statement can be to blame.
    pub(super) fn of_opening(self) -> Self {
        Self { cut_off: false, answered: false, ..self }
    }

    /// The party at fault.
    pub fn fault(&self) -> Fault {
        self.fault
    }

    /// The five characters of Postgres's error code, if the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_ref().map(SqlState::code)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

// Users never see `Debug`, but test output and `expect` do, and the sentence says everything.
impl fmt::Debug for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StdError for StoreError {}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(db) => {
                super::drift::smell(db.code().code());
                // A server that ends the session says so at a higher level than a trigger can raise.
                let answered = db.parsed_severity() == Some(Severity::Error);
                Self {
                    sqlstate: Some(db.code().clone()),
                    cut_off: !answered && ENDED.contains(db.code()),
                    answered,
                    of_plan: is_of_plan(db),
                    ..Self::new(sentence::of(db), Fault::of(db.code().code()))
                }
            }
            None => {
                let cut_off = is_lost(&error);
                let fault = if cut_off { Fault::Passing } else { Fault::Ours };
                Self { cut_off, ..Self::new(driver_sentence(&error), fault) }
            }
        }
    }
}

/// The functions of the server that raise for a prepared statement, with the code. Nothing that a user writes can name
/// them: what is raised there has the context of a function, or another function's name.
const OF_PLANS: [(&str, &str); 2] = [("0A000", "RevalidateCachedQuery"), ("26000", "FetchPreparedStatement")];

fn is_of_plan(db: &DbError) -> bool {
    let raised = (db.code().code(), db.routine().unwrap_or_default());
    OF_PLANS.contains(&raised) && db.where_().is_none()
}

fn is_lost(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || cause::<std::io::Error>(error).is_some()
}

fn cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(e) = next {
        if let Some(found) = e.downcast_ref() {
            return Some(found);
        }
        next = e.source();
    }
    None
}

fn driver_sentence(error: &tokio_postgres::Error) -> String {
    if error.is_closed() {
        return "the connection to the database was lost".to_owned();
    }
    if let Some(sentence) = super::tls::sentence(error) {
        return sentence;
    }
    // The causes say what the outermost error leaves out, such as "connection refused".
    let mut sentence = format!("the database cannot be used: {error}");
    let mut next = error.source();
    while let Some(e) = next {
        let text = e.to_string();
        if !sentence.contains(&text) {
            sentence.push_str(": ");
            sentence.push_str(&text);
        }
        next = e.source();
    }
    sentence
}
