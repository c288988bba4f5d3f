//! Reads the cells of a row so that no content can make the broker panic.
//!
//! The tables are the user's: a column may be null where nobody expected it, or have the type that an older table
//! had. The driver's own `Row::get` would panic, so `clippy.toml` forbids it and every cell is read here.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::Row;
use tokio_postgres::row::RowIndex;
use tokio_postgres::types::{FromSql, Type};

use super::error::StoreError;

/// Reads the cells of a row.
pub(super) trait Cells {
    /// The value of a column, by the column's name or its place in the statement.
    ///
    /// # Errors
    /// A sentence that names the column but not its content, since an error is logged and the content may be secret.
    fn cell<'a, I, T>(&'a self, column: I) -> Result<T, StoreError>
    where
        I: RowIndex + fmt::Display + Copy,
        T: FromSql<'a>;

    /// A text or bytea as text for people. Bytes that are not UTF-8 (COPY lets them in) are shown as replacement
    /// characters.
    ///
    /// # Errors
    /// See [`cell`](Self::cell).
    fn text(&self, column: &str) -> Result<Option<String>, StoreError>;

    /// A count. A negative value is read as 0.
    ///
    /// # Errors
    /// See [`cell`](Self::cell).
    fn count(&self, column: &str) -> Result<u64, StoreError>;
}

impl Cells for Row {
    fn cell<'a, I, T>(&'a self, column: I) -> Result<T, StoreError>
    where
        I: RowIndex + fmt::Display + Copy,
        T: FromSql<'a>,
    {
        self.try_get(column).map_err(|_| {
            let is_null = matches!(self.try_get::<_, Option<T>>(column), Ok(None));
            unreadable(self, &column.to_string(), is_null)
        })
    }

    fn text(&self, column: &str) -> Result<Option<String>, StoreError> {
        Ok(self.cell::<_, Option<Lossy>>(column)?.map(|text| text.0))
    }

    fn count(&self, column: &str) -> Result<u64, StoreError> {
        Ok(self.cell::<_, i64>(column)?.max(0).unsigned_abs())
    }
}

/// A text of any bytes; those that are not UTF-8 are replaced.
pub(super) struct Lossy(pub(super) String);

impl<'a> FromSql<'a> for Lossy {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(kind: &Type) -> bool {
        *kind == Type::BYTEA || <&str as FromSql>::accepts(kind)
    }
}

fn unreadable(row: &Row, column: &str, is_null: bool) -> StoreError {
    let place = column.parse::<usize>().ok();
    let found = row.columns().iter().enumerate().find(|(at, c)| Some(*at) == place || c.name() == column);
    let sentence = match found {
        Some((_, c)) if is_null => {
            format!("its column {} is null, and Postbell needs a value there", c.name())
        }
        Some((_, c)) => {
            let (name, kind) = (c.name(), c.type_());
            format!("its column {name} has the type {kind} or a value that Postbell cannot read")
        }
        None => format!("the statement gave no column {column}"),
    };
    StoreError::refused(format!("a row of the database cannot be read: {sentence}"))
}
