//! Whose fault an error of the database is. The answer decides whether to try again, to set one row aside, or to
//! report a defect.
//!
//! A code is a hint: a trigger of the user's may raise any. `store/blame.rs` decides by contrast.

/// The party at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The server or the network, for now: the same call may succeed later.
    Passing,
    /// The statement took too long, or waited too long for a lock: a part of it may succeed, and later all of it.
    Slow,
    /// The user's tables: a row, a constraint, a trigger, a generated column or a right. Trying again changes
    /// nothing; the other rows can be written.
    Refused,
    /// Postbell: the statement or the schema is wrong.
    Ours,
}

/// Classes of SQLSTATE, with single codes before their class: the party at fault, and why.
const PLACES: &[(&str, Fault, &str)] = &[
    ("25006", Fault::Passing, "read-only: a standby; the primary takes the write after a failover"),
    ("25P03", Fault::Passing, "idle in a transaction for too long: the session is gone, a new one works"),
    ("55P03", Fault::Slow, "a lock that was not given in time"),
    ("55006", Fault::Passing, "an object is in use for now"),
    ("57014", Fault::Slow, "cancelled: the statement's time was over, by a slow trigger or a slow server"),
    ("08P01", Fault::Ours, "a violation of the protocol will be one again"),
    ("08", Fault::Passing, "the connection"),
    ("40", Fault::Passing, "a rollback by the server: a deadlock, a serialization failure"),
    ("53", Fault::Passing, "out of disk, memory or connections for now"),
    ("57", Fault::Passing, "an operator's intervention: shutdown, crash, still starting"),
    ("58", Fault::Passing, "the system around the server: a disk that fails, a file that is missing"),
    ("72", Fault::Passing, "a snapshot that is too old: the next one is not"),
    ("XX001", Fault::Refused, "a page of the table is damaged: of one row, others can be written"),
    ("XX002", Fault::Refused, "an index is damaged: for one row, others can be written"),
    ("XX", Fault::Refused, "an internal error, most often of a trigger in C: of one row"),
    ("428C9", Fault::Refused, "a column of the user's is generated"),
    ("42501", Fault::Refused, "a right is missing on a table, or row level security forbids the row"),
    (
        "42",
        Fault::Refused,
        "a name or a type that is not there: the broker's statements are tested, a user's trigger names it",
    ),
    ("3F", Fault::Refused, "a schema that is not there: named by a user's trigger"),
    (
        "54",
        Fault::Refused,
        "a limit of the program: a row or an index entry that is too large, a trigger that calls itself",
    ),
    ("02", Fault::Refused, "no data: raised by a trigger"),
    ("09", Fault::Refused, "an action of a trigger failed"),
    (
        "0A",
        Fault::Refused,
        "a feature that is not there: a rule on the table that does not go with the statement",
    ),
    ("0Z", Fault::Refused, "a diagnostics error of a trigger"),
    ("20", Fault::Refused, "a CASE of a trigger has no branch for the row"),
    ("21", Fault::Refused, "cardinality: a subquery of a trigger gave several rows"),
    ("22", Fault::Refused, "data: too long, not a number, out of range"),
    ("23", Fault::Refused, "a constraint"),
    ("27", Fault::Refused, "a trigger changed the row that is being changed"),
    ("2F", Fault::Refused, "a function of a trigger"),
    ("34", Fault::Refused, "a cursor of a trigger"),
    ("38", Fault::Refused, "a function of a trigger, outside the server"),
    ("39", Fault::Refused, "a function of a trigger was called wrongly"),
    ("44", Fault::Refused, "WITH CHECK OPTION: the table is a view that does not take the row"),
    ("55", Fault::Refused, "an object is not in the state that a trigger needs"),
    ("HV", Fault::Refused, "a foreign table behind a trigger"),
    ("P0", Fault::Refused, "raised by a trigger"),
    ("F0", Fault::Passing, "the server's files of settings"),
    ("25", Fault::Ours, "a transaction in a state that the broker did not expect"),
    ("26", Fault::Ours, "a prepared statement that is not there: a transaction pooler"),
    ("28", Fault::Ours, "the account: the same until somebody changes it"),
    ("3D", Fault::Ours, "the database of that name is not there"),
    ("0B", Fault::Ours, "a transaction that did not begin"),
    ("2D", Fault::Ours, "a transaction that did not end"),
    ("3B", Fault::Ours, "a savepoint"),
];

impl Fault {
    /// The fault of an error with this code. An unknown code, such as a trigger may raise, is the user's.
    pub(in crate::store) fn of(code: &str) -> Self {
        PLACES
            .iter()
            .find(|(start, ..)| code.starts_with(start))
            .map_or(Self::Refused, |(_, fault, _)| *fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_error_has_its_place() {
        let of = |fault, codes: &[&str]| {
            for code in codes {
                assert_eq!(Fault::of(code), fault, "{code}");
            }
        };
        of(
            Fault::Passing,
            &["08006", "40001", "40P01", "53100", "53300", "57P01", "57P03", "58030", "25006"],
        );
        of(Fault::Slow, &["57014", "55P03"]);
        of(
            Fault::Refused,
            &["22001", "22P02", "23502", "23503", "23505", "23514", "23P01", "42501", "42703", "42883"],
        );
        of(
            Fault::Refused,
            &["428C9", "54000", "54001", "P0001", "P0004", "27000", "44000", "XX000", "ABCDE"],
        );
        of(Fault::Ours, &["25P02", "26000", "28P01", "3D000", "08P01"]);
    }

    #[test]
    fn a_single_code_stands_before_its_class_and_each_says_why() {
        for (i, (start, _, why)) in PLACES.iter().enumerate() {
            assert!(!why.is_empty(), "{start} has no reason");
            let shadowed = PLACES[..i].iter().any(|(earlier, ..)| start.starts_with(earlier));
            assert!(!shadowed, "{start} is never reached");
        }
    }
}
