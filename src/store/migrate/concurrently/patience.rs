//! A statement that may wait long for others, and says for whom.

use std::pin::pin;
use std::time::Duration;

use tokio::time::sleep;

use super::super::LOCK_KEY;
use crate::store::cell::Cells;
use crate::store::connection::{Connection, Target};
use crate::store::error::StoreError;
use crate::store::sql::queries;

/// How long a statement runs before the first sentence about it.
const QUIET: Duration = Duration::from_secs(5);
/// How often the sentence is said again.
const AGAIN: Duration = Duration::from_secs(60);

/// Runs a statement on the connection that holds the migrations' lock. While it waits for other sessions, the log names them.
pub(super) async fn patiently(connection: &Connection, target: &Target, sql: &str) -> Result<(), StoreError> {
    let mut done = pin!(connection.batch(sql));
    let mut pause = QUIET;
    loop {
        tokio::select! {
            done = &mut done => return done,
            () = sleep(pause) => tell(target).await,
        }
        pause = AGAIN;
    }
}

/// Names the sessions in the log. A failure is no reason to end the build.
async fn tell(target: &Target) {
    match waits_for(target).await {
        Ok(sessions) if !sessions.is_empty() => tracing::warn!(
            sessions = sessions.join(", "),
            "an index waits until these sessions have ended their transactions; nobody waits for the index"
        ),
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "nobody could be asked for whom an index waits"),
    }
}

async fn waits_for(target: &Target) -> Result<Vec<String>, StoreError> {
    // The other connection is busy.
    let connection = Connection::open(target).await?;
    let rows = connection.query(queries::BUILD_WAITS, &[&LOCK_KEY]).await?;
    let session = |row: &tokio_postgres::Row| {
        let (pid, seconds): (i32, i64) = (row.cell("pid")?, row.cell("seconds")?);
        let (application, state): (String, String) = (row.cell("application")?, row.cell("state")?);
        Ok(match pid {
            0 => "a prepared transaction (pg_prepared_xacts)".to_owned(),
            _ => format!("process {pid} ({application}, {state}, its transaction began {seconds} s ago)"),
        })
    };
    rows.iter().map(session).collect()
}
