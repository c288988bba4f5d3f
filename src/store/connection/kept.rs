//! The settings of a connection, compared after statements that may have run a user's trigger.
//!
//! A trigger can change a setting for the whole session, and nothing forbids that: a SET clause of its function does not undo it, and
//! neither does our own SET LOCAL. So a look follows the writes, in the same round trip. A look costs a seventh of a write of one row, so
//! writes that follow each other closely share one. A connection on which a setting was left behind counts as closed, and whoever comes
//! next opens another one. The trigger's own transaction stands.

use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use tokio::time::Instant;

use super::{Connection, StoreError, last_row};
use crate::store::cell::Cells;
use crate::store::sql::queries;

/// Writes are not looked at so soon after the last look. A setting that was left behind may stand for this long, and for no statement
/// that begins later.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The least time between two log lines that a setting was left behind.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// The settings of a connection.
#[derive(Debug)]
pub(super) struct Kept {
    /// The first column of session_kept.sql.
    settings: String,
    /// How long the server lets a statement run.
    pub(super) statement_wait: Duration,
    looked_at: Instant,
    /// Whether something was written since, so that the settings may be others.
    is_in_doubt: bool,
}

impl Kept {
    pub(super) fn new(settings: String, statement_wait: Duration) -> Self {
        Self { settings, statement_wait, looked_at: Instant::now(), is_in_doubt: false }
    }
}

impl Connection {
    /// Changes settings on purpose.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(in crate::store) async fn set(&self, sql: &str) -> Result<(), StoreError> {
        let set = format!("{sql};\n{}", queries::SESSION_KEPT);
        let said = self.answered(self.client.simple_query(&set)).await?;
        let of = |column| last_row(&said).and_then(|row| row.get(column)).unwrap_or_default();
        let wait = Duration::from_millis(of(1).parse().unwrap_or_default());
        *self.kept() = Kept::new(of(0).to_owned(), wait);
        Ok(())
    }

    /// Whether the connection can be used: it is not closed, and nothing was left behind.
    pub(in crate::store) async fn is_good(&self) -> bool {
        let is_overdue = self.kept().is_in_doubt && self.is_look_due();
        if is_overdue && !self.is_closed() {
            self.compare(self.look().await);
        }
        !self.is_closed()
    }

    /// Runs a statement of `sql/queries` that may run a user's trigger or function, outside of a transaction, and looks what it left
    /// behind.
    ///
    /// # Errors
    /// See [`StoreError`]; they are the statement's.
    pub(in crate::store) async fn looking<T>(
        &self,
        sql: &'static str,
        statement: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.prepare(queries::SESSION_KEPT).await?;
        let (done, found) = match self.is_prepared(sql) {
            true => join(statement, self.look()).await,
            false => (statement.await, self.look().await),
        };
        // A statement that fails takes back what its own triggers set.
        let is_good = self.compare(found);
        done.map_err(|e| if is_good { e } else { e.of_settings() })
    }

    /// Whether this can be sent at once with others. Preparing it would put it behind what is sent later.
    pub(super) fn is_prepared(&self, sql: &'static str) -> bool {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).contains_key(sql)
    }

    pub(super) fn is_look_due(&self) -> bool {
        self.kept().looked_at.elapsed() >= LOOK_EVERY
    }

    /// Something was written, and no look followed.
    pub(super) fn doubt(&self) {
        self.kept().is_in_doubt = true;
    }

    /// The settings as they are now. The look is prepared before the trigger's statement, so that it also fails if nothing is
    /// prepared any more.
    pub(super) async fn look(&self) -> Result<String, StoreError> {
        self.query_one(queries::SESSION_KEPT, &[]).await?.cell(0)
    }

    /// Lets nobody use the connection again if a setting is not as it was made. If nobody can tell the connection is of no use either:
    /// what was left behind may be a time that is too short, or nothing is prepared any more. The socket is closed when the connection
    /// is dropped, so that its user can end what belongs to the same work. Returns whether all is as it was.
    pub(super) fn compare(&self, found: Result<String, StoreError>) -> bool {
        let mut kept = self.kept();
        (kept.looked_at, kept.is_in_doubt) = (Instant::now(), false);
        let changed = match found {
            Ok(found) if found == kept.settings => return true,
            Ok(found) => changed(&kept.settings, &found),
            Err(_) if self.is_closed() => return true,
            Err(error) => error.to_string(),
        };
        self.given_up.store(true, Ordering::Relaxed);
        static SAID: Mutex<Option<Instant>> = Mutex::new(None);
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(
                changed,
                "a trigger or function of the user's left a setting behind on a connection of the broker, which is closed for that: \
                 let it `set local`"
            );
        }
        false
    }

    pub(super) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings of session_kept.sql, in its order.
fn names() -> impl Iterator<Item = &'static str> {
    let settings = queries::SESSION_KEPT.split("current_setting('").skip(1);
    std::iter::once("role").chain(settings.filter_map(|rest| rest.split('\'').next()))
}

/// The names of the settings that differ.
fn changed(before: &str, after: &str) -> String {
    let differs = |(_, (before, after)): &(&str, (&str, &str))| before != after;
    let values = before.split('\n').zip(after.split('\n'));
    let names: Vec<&str> = names().zip(values).filter(differs).map(|(name, _)| name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings that a file sets.
    fn set_by(sql: &'static str) -> Vec<&'static str> {
        let name = |line: &'static str| line.strip_prefix("set ").and_then(|rest| rest.split(" = ").next());
        let quoted = sql
            .lines()
            .filter(|line| !line.starts_with("--"))
            .flat_map(|line| line.split('\'').skip(1).step_by(2));
        let named = quoted.filter(|word| {
            word.contains("_timeout") || word.starts_with("enable_") || word.ends_with("_kind")
        });
        sql.lines().filter_map(name).chain(named).collect()
    }

    #[test]
    fn every_setting_that_is_made_is_looked_at() {
        let known: Vec<&str> = names().collect();
        let files = [
            queries::SESSION,
            queries::SESSION_PLANNER,
            queries::SESSION_LOOKING_ON,
            queries::SETTLE_SESSION,
        ];
        for sql in files {
            let made = set_by(sql);
            assert!(made.len() > 1, "{made:?}");
            let unknown: Vec<_> =
                made.iter().filter(|name| **name != "deadlock_timeout" && !known.contains(name)).collect();
            assert!(unknown.is_empty(), "{unknown:?} are not in {known:?}");
        }
    }

    #[test]
    fn what_differs_is_named_and_no_value_is() {
        let values: Vec<String> = (0..names().count()).map(|n| n.to_string()).collect();
        let before = values.join("\n");
        assert_eq!(changed(&before, &before), "");
        let after = before.replacen("0\n", "secret\n", 1).replace("\n6\n", "\n0\n");
        assert_eq!(changed(&before, &after), "role, lock_timeout");
    }
}
