//! What can go wrong with the database, in sentences.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::SqlState;

/// A failure of the database or of the way to it. `Display` is a sentence for a person.
pub struct StoreError {
    sentence: String,
    sqlstate: Option<SqlState>,
    retryable: bool,
}

impl StoreError {
    /// A failure that trying again will not mend.
    pub fn refused(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), sqlstate: None, retryable: false }
    }

    /// A failure that may pass.
    pub fn unavailable(sentence: impl Into<String>) -> Self {
        Self { sentence: sentence.into(), sqlstate: None, retryable: true }
    }

    /// Whether the same call may succeed later: the server or the connection is gone, not the request wrong.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The five characters of Postgres's error code, where the server gave one.
    pub fn sqlstate(&self) -> Option<&str> {
        self.sqlstate.as_ref().map(SqlState::code)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

// A user never sees it, but test output and `expect` do: the sentence says all there is.
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
                    sentence: server_sentence(db),
                    sqlstate: Some(db.code().clone()),
                    retryable: is_passing(db.code()),
                }
            }
            None => Self { sentence: driver_sentence(&error), sqlstate: None, retryable: is_lost(&error) },
        }
    }
}

fn server_sentence(db: &tokio_postgres::error::DbError) -> String {
    let detail = db.detail().map(|d| format!(" ({d})")).unwrap_or_default();
    let said = format!("{}{detail}", db.message());
    let advice = match *db.code() {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "check the user and password in DATABASE_URL"
        }
        SqlState::INVALID_CATALOG_NAME => "check the database name in DATABASE_URL",
        SqlState::INSUFFICIENT_PRIVILEGE => "connect as the owner of the tables, or grant it the right",
        SqlState::TOO_MANY_CONNECTIONS => "close other clients or lower POSTBELL_POOL_SIZE",
        SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME | SqlState::UNDEFINED_COLUMN => {
            "run `postbell migrate`, and check POSTBELL_SCHEMA"
        }
        SqlState::LOCK_NOT_AVAILABLE => "another transaction holds the table; try again when it has ended",
        _ => return format!("the database says: {said}"),
    };
    format!("the database says: {said}; {advice}")
}

/// Codes of a server that is starting, stopping, or out of something for now.
fn is_passing(code: &SqlState) -> bool {
    let class = &code.code()[..2];
    // 08 connection, 53 resources, 57 operator intervention (but a cancelled query), 40 serialization, deadlock.
    matches!(class, "08" | "53" | "57" | "40") || *code == SqlState::LOCK_NOT_AVAILABLE
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
    // The chain says what the outermost error leaves out, such as "connection refused".
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
