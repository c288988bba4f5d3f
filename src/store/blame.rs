//! Blame by contrast: whose fault an error is that says it will pass.
//!
//! A trigger may raise any code for one row, by itself or through a foreign table: "read only", "disk full", "connection failure". A
//! server that means it refuses a row of Postbell's own as well, which no trigger of the user's sees. So an error that says it will
//! pass begins a search for a row only if such a write succeeds at that moment, and the search is the second try: a row is set
//! aside only if it meets the error again, apart from all others. If nothing can be written, no row is to blame, and the batch is
//! tried again later as it is.

use super::connection::Connection;
use super::error::{Fault, StoreError};
use super::pool::Pool;
use crate::store::sql::queries;

/// The meaning of an error for the batch that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hint {
    /// A row is to blame, or may be: it is searched for.
    Row,
    /// A row, if the server writes; the server, if not.
    Contrast,
    /// The server, the network or the time. Some callers search here, too, each for reasons of its own.
    Elsewhere,
}

impl Hint {
    fn of(fault: Fault, is_answered: bool) -> Self {
        match fault {
            Fault::Refused | Fault::Ours => Self::Row,
            Fault::Passing if is_answered => Self::Contrast,
            Fault::Passing | Fault::Slow => Self::Elsewhere,
        }
    }
}

/// Whether a search for the row to blame begins: a row refused the batch, or an error says that it will pass while the server
/// writes.
pub(crate) async fn begins(pool: &Pool, error: &StoreError) -> bool {
    match Hint::of(error.fault(), error.is_answered()) {
        Hint::Row => true,
        Hint::Contrast => pool.execute(queries::BLAME, &[]).await.is_ok_and(|n| told(error, n)),
        Hint::Elsewhere => false,
    }
}

/// [`begins`], for a batch that is written on a connection of its own.
pub(crate) async fn begins_on(connection: &Connection, error: &StoreError) -> bool {
    match Hint::of(error.fault(), error.is_answered()) {
        Hint::Row => true,
        Hint::Contrast => connection.execute(queries::BLAME, &[]).await.is_ok_and(|n| told(error, n)),
        Hint::Elsewhere => false,
    }
}

fn told(error: &StoreError, written: u64) -> bool {
    tracing::debug!(%error, written, "the server writes, so a row may be to blame: it is searched for");
    written > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_says_it_will_pass_needs_a_contrast() {
        assert_eq!(Hint::of(Fault::Refused, true), Hint::Row);
        assert_eq!(Hint::of(Fault::Ours, true), Hint::Row);
        for code in ["08006", "25006", "40001", "53100", "57P03", "58030", "72000", "F0000"] {
            assert_eq!(Hint::of(Fault::of(code), true), Hint::Contrast, "{code}");
            assert_eq!(Hint::of(Fault::of(code), false), Hint::Elsewhere, "{code}");
        }
        assert_eq!(Hint::of(Fault::Slow, true), Hint::Elsewhere);
    }
}
