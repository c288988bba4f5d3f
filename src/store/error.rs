//! Errors of the database, in sentences.

mod fault;
mod sentence;

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::SqlState;

pub use fault::Fault;

/// A failure of the database or of the way to it. `Display` is a sentence for a person.
pub struct StoreError {
    sentence: String,
    sqlstate: Option<SqlState>,
    fault: Fault,
}

impl StoreError {
    /// A failure that will be the same when tried again.
    pub fn refused(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), sqlstate: None, fault: Fault::Ours }
    }

    /// A failure that may pass.
    pub fn unavailable(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), sqlstate: None, fault: Fault::Passing }
    }

    /// Whether the same call may succeed later, because the server, the connection or the time was at fault and not
    /// the request.
    pub fn is_retryable(&self) -> bool {
        matches!(self.fault, Fault::Passing | Fault::Slow)
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
                Self {
                    sentence: sentence::of(db),
                    sqlstate: Some(db.code().clone()),
                    fault: Fault::of(db.code().code()),
                }
            }
            None => {
                let fault = if is_lost(&error) { Fault::Passing } else { Fault::Ours };
                Self { sentence: driver_sentence(&error), sqlstate: None, fault }
            }
        }
    }
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
