//! A sentence for an error of the server that holds nothing of a row.
//!
//! Messages, details, hints and contexts of the server quote values: `Failing row contains (…)`, `Key
//! (dedupe_key)=(…)`, `invalid input syntax for type json … Token "…"`, and whatever a trigger raises. A log has
//! other readers than the table, and an answer goes to another agent. So a sentence is made of the error's code and
//! of names: of tables, columns, constraints, types and functions. The server's own message is passed on only for the
//! codes that [`speaks`] lists. The server's log has the rest.

use tokio_postgres::error::{DbError, ErrorPosition, Severity, SqlState};

/// The sentence for an error as the driver gives it.
pub(super) fn of(error: &DbError) -> String {
    let known = ErrorParts {
        code: error.code(),
        message: error.message(),
        context: error.where_(),
        file: error.file().unwrap_or_default(),
        origin: match (error.parsed_severity(), error.position()) {
            (Some(Severity::Fatal | Severity::Panic), _) => Origin::Connection,
            (_, Some(ErrorPosition::Original(_))) => Origin::Statement,
            _ => Origin::Values,
        },
        names: [
            ("constraint", error.constraint()),
            ("column", error.column()),
            ("table", error.table()),
            ("type", error.datatype()),
        ],
    };
    known.sentence()
}

/// The parts of an error that are read; its detail and its hint are not.
struct ErrorParts<'a> {
    code: &'a SqlState,
    message: &'a str,
    context: Option<&'a str>,
    /// The server's source file that raised the error.
    file: &'a str,
    origin: Origin,
    names: [(&'static str, Option<&'a str>); 4],
}

impl ErrorParts<'_> {
    fn sentence(&self) -> String {
        let mut said = match self.speaks() {
            true => format!("the database says: {}", self.message),
            false => format!("the database says: {}", words(self.code.code())),
        };
        if !self.is_raised() {
            for (what, name) in self.names {
                let named = name.filter(|name| !self.speaks() || !self.message.contains(*name));
                if let Some(name) = named {
                    said.push_str(&format!(", {what} {name}"));
                }
            }
        }
        if let Some(function) = self.context.and_then(function) {
            said.push_str(&format!(", in function {function}"));
        }
        said.push_str(&format!(" (SQLSTATE {})", self.code.code()));
        if let Some(advice) = advice(self.code) {
            said.push_str("; ");
            said.push_str(advice);
        }
        said
    }

    /// Whether a procedural language raised the error (`pl_exec.c`, `plpy_elog.c`, …). Then every part of the error,
    /// names included, was written by a function's author, often with values of the row.
    fn is_raised(&self) -> bool {
        self.file.starts_with("pl_") || self.file.starts_with("plp") || self.file.starts_with("plv8") || {
            // A server may hide its files. Then an error from within a function counts as raised.
            self.file.is_empty() && self.context.is_some()
        }
    }

    /// Whether the server's own message holds no data. Messages from within a function may hold data: the function
    /// may have built its statement from values, which the message then quotes as syntax, columns or tables.
    fn speaks(&self) -> bool {
        self.context.is_none() && !self.is_raised() && speaks(self.code.code(), self.origin)
    }
}

/// The step in which an error arose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Making or ending a connection.
    Connection,
    /// Parsing the statement, which is a file of ours; the server names the position in its text.
    Statement,
    /// Carrying out the statement, which has values.
    Values,
}

/// Whether messages with this code hold only names, numbers of bytes and settings, and no values.
fn speaks(code: &str, origin: Origin) -> bool {
    match &code[..code.len().min(2)] {
        // Logins: the user and the database. A function that takes one of these names from a row gives the same
        // codes.
        "08" | "28" | "3D" => origin == Origin::Connection,
        // Unknown tables, columns, functions, schemas. A cast to regclass gives these codes for a value.
        "42" | "3F" | "0A" => origin == Origin::Statement || matches!(code, "42501" | "428C9"),
        // Read only, deadlocks; out of a resource, too long for an index; cancelled, shut down.
        "25" | "40" | "53" | "54" | "57" => true,
        // In use or locked; a broken disk.
        "55" | "58" | "XX" => matches!(code, "55000" | "55006" | "55P03" | "58030" | "XX001" | "XX002"),
        // Constraints: the message has names; the row is in the detail.
        "23" => true,
        // "value too long for type character varying(255)" and "division by zero". All other messages of class 22
        // quote the value.
        "22" => matches!(code, "22001" | "22012"),
        _ => false,
    }
}

/// A text for a code whose message is not passed on.
fn words(code: &str) -> &'static str {
    match code {
        "22001" => "a value is too long",
        "22003" => "a number is out of range",
        "22P02" | "22P03" | "22030" | "22032" => "a value is not of its column's type",
        "22021" | "22P05" => "a text holds a character that this database cannot store",
        "23502" => "a column that must not be null is null",
        "23503" => "a row that is referred to does not exist, or one that is referred to would be gone",
        "23505" => "a row with the same key is there already",
        "23514" => "a check refuses the row",
        "23P01" => "an exclusion constraint refuses the row",
        "55P03" => "a lock is held by another transaction",
        "57014" => "the statement took too long",
        "P0001" => "a function or trigger refuses it",
        _ => match &code[..code.len().min(2)] {
            "22" => "a value is not what its column or a function takes",
            "23" => "a constraint refuses the row",
            "42" => "a function or trigger is not right for these tables, or lacks a right",
            "P0" => "a function or trigger failed",
            _ => "the statement failed",
        },
    }
}

fn advice(code: &SqlState) -> Option<&'static str> {
    Some(match *code {
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "check the user and password in DATABASE_URL"
        }
        SqlState::INVALID_CATALOG_NAME => "check the database name in DATABASE_URL",
        SqlState::INSUFFICIENT_PRIVILEGE => "connect as the owner of the tables, or grant it the right",
        SqlState::TOO_MANY_CONNECTIONS => "close other clients or lower POSTBELL_POOL_SIZE",
        SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME | SqlState::UNDEFINED_COLUMN => {
            "run `postbell migrate`, and check POSTBELL_SCHEMA"
        }
        SqlState::LOCK_NOT_AVAILABLE => {
            "another transaction holds what it needs; try again when it has ended"
        }
        SqlState::READ_ONLY_SQL_TRANSACTION => "the URL must lead to the primary, which takes writes",
        SqlState::RAISE_EXCEPTION => "the server's log has the words of the function",
        _ => return None,
    })
}

/// The function in which the error arose, with its line: `check_message() line 3`. The first line of a context is the
/// innermost and begins as the server writes it. Further lines may hold statements with values. So the last line,
/// which is the trigger's, is read only if no value can be in it.
fn function(context: &str) -> Option<String> {
    let called = |line: &str| {
        let rest = line.strip_prefix("PL/pgSQL function ")?;
        let (name, rest) = rest.split_once(" line ")?;
        let number: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let is_name = |c: char| c.is_alphanumeric() || "_.$\"(), []".contains(c);
        (name.len() <= 200 && name.chars().all(is_name) && !number.is_empty())
            .then(|| format!("{name} line {number}"))
    };
    let first = context.lines().next().unwrap_or_default();
    called(first).or_else(|| {
        // `SQL statement "…"` may hold any text, over many lines.
        let is_built = context.contains("with parameters:") || context.matches("SQL statement").count() > 1;
        if is_built { None } else { called(context.lines().last().unwrap_or_default()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known<'a>(
        code: &'a SqlState,
        message: &'a str,
        context: Option<&'a str>,
        file: &'a str,
    ) -> ErrorParts<'a> {
        let names = [("constraint", None), ("column", None), ("table", None), ("type", None)];
        ErrorParts { code, message, context, file, origin: Origin::Values, names }
    }

    #[test]
    fn a_constraint_is_named_and_a_value_is_not() {
        let mut check = known(
            &SqlState::CHECK_VIOLATION,
            "new row for relation \"agent_messages\" violates check constraint \"c\"",
            None,
            "execMain.c",
        );
        check.names[0].1 = Some("c");
        assert_eq!(
            check.sentence(),
            "the database says: new row for relation \"agent_messages\" violates check constraint \"c\" (SQLSTATE 23514)"
        );
        // The same error, raised in a trigger's own words.
        check.message = "secret";
        check.context = Some("PL/pgSQL function f() line 3 at RAISE");
        check.file = "pl_exec.c";
        check.names[0].1 = Some("secret");
        assert_eq!(
            check.sentence(),
            "the database says: a check refuses the row, in function f() line 3 (SQLSTATE 23514)"
        );
    }

    #[test]
    fn an_unknown_code_says_nothing_of_its_own() {
        for code in [
            "22P02", "22003", "42P01", "3F000", "3D000", "XX000", "P0001", "P0004", "ABCDE", "99999",
            "00000", "0", "",
        ] {
            let code = SqlState::from_code(code);
            let sentence = known(&code, "secret", None, "regproc.c").sentence();
            assert!(!sentence.contains("secret"), "{sentence}");
        }
    }

    #[test]
    fn the_function_is_named_and_no_value_of_a_context() {
        let of = |context| function(context).unwrap_or_default();
        assert_eq!(of("PL/pgSQL function public.f(text) line 12 at RAISE"), "public.f(text) line 12");
        assert_eq!(
            of("SQL statement \"insert into t values ('secret')\"\nPL/pgSQL function g() line 2 at EXECUTE"),
            "g() line 2"
        );
        for context in [
            "JSON data, line 1: secret",
            "unnamed portal with parameters: $1 = 'x\nPL/pgSQL function secret() line 1 at RAISE",
            "SQL statement \"x\nSQL statement \nPL/pgSQL function secret() line 1 at RAISE",
            "PL/pgSQL function secret'() line 1 at RAISE",
            "",
        ] {
            assert_eq!(of(context), "", "{context}");
        }
    }
}
