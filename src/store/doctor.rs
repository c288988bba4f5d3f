//! `postbell doctor`: looks for whatever could keep a broker from working here, and says what to do about each
//! finding.
//!
//! A check that cannot be made counts as failed and does not end the others; only an unreachable database does.

mod aside;
mod house;
mod mesh;
pub(crate) mod open;
mod rehearsal;
mod server;

use std::future::Future;
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Target};
use super::error::StoreError;

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// All is well.
    Ok,
    /// A broker works, but somebody should look at this.
    Warn,
    /// A broker does not work, or cannot keep its promises.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// The subject of the check: one word or two, always the same.
    pub check: &'static str,
    /// How serious the finding is.
    pub level: Level,
    /// The finding and, unless all is well, what to do.
    pub sentence: String,
}

impl Check {
    fn ok(check: &'static str, sentence: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, sentence: sentence.into() }
    }

    fn warn(check: &'static str, sentence: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, sentence: sentence.into() }
    }

    fn fail(check: &'static str, sentence: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, sentence: sentence.into() }
    }
}

/// How long all checks together may take.
pub const EXAMINATION_WAIT: Duration = Duration::from_secs(20);
/// How long a check waits for a table that somebody has locked. The others are to be made, too.
const LOCK_WAIT: &str = "set lock_timeout = '1s'";

/// Makes every check. The first failure is usually the cause of later ones.
pub async fn examine(target: &Target) -> Vec<Check> {
    let mut found = Examination { checks: server::url(target), until: Instant::now() + EXAMINATION_WAIT };
    let opened = async {
        let connection = Connection::open(&target.clone().looking_on()).await?;
        connection.batch(LOCK_WAIT).await?;
        Ok(connection)
    };
    let connection: Connection = match opened.await {
        Ok(connection) => connection,
        Err::<_, StoreError>(error) => {
            found.checks.push(Check::fail("reachable", format!("{}: {error}", target.url)));
            return found.checks;
        }
    };
    found.checks.push(Check::ok("reachable", format!("connected to {}", target.url)));
    found.make("server", server::server(&connection, target)).await;
    found.make("listen", async { Ok(vec![server::listens(target).await]) }).await;
    found.make("clock", server::clock(&connection)).await;
    // If the schema could not be read, the tables may be there all the same.
    let was_read = found.make("schema", house::schema(&connection)).await;
    let is_installed = !was_read || found.has_all_of("schema");
    found.make("schema", house::heirs(&connection)).await;
    found.make("schema", house::foreign(&connection)).await;
    found.make("rights", house::rights(&connection)).await;
    found.make("tables", house::unlogged(&connection)).await;
    found.make("indexes", mesh::indexes(&connection)).await;
    found.make("policies", mesh::policies(&connection)).await;
    found.make("api roles", open::open(&connection)).await;
    // These read tables that the migrations make.
    if is_installed {
        // Without the rights, the rehearsal would only repeat that they are lacking.
        if found.has_all_of("rights") {
            found.make("rehearsal", rehearsal::rehearsal(&connection)).await;
        }
        found.make("brokers", mesh::brokers(&connection)).await;
        found.make("agents", mesh::agents(&connection)).await;
        found.make("recipients", mesh::recipients(&connection)).await;
        found.make("set aside", aside::set_aside(&connection)).await;
        found.make("deliveries", house::unrouted(&connection)).await;
    }
    found.checks
}

/// The checks so far, and the time for those to come.
struct Examination {
    checks: Vec<Check>,
    until: Instant,
}

impl Examination {
    /// Makes a check, and returns whether it could be made.
    async fn make(
        &mut self,
        name: &'static str,
        check: impl Future<Output = Result<Vec<Check>, StoreError>>,
    ) -> bool {
        let found = timeout_at(self.until, check).await.unwrap_or_else(|_| {
            let seconds = EXAMINATION_WAIT.as_secs();
            Err(StoreError::unavailable(format!("the {seconds} s for all checks are over")))
        });
        let is_made = found.is_ok();
        add(&mut self.checks, name, found);
        is_made
    }

    /// Whether no check of this name found anything.
    fn has_all_of(&self, name: &str) -> bool {
        self.checks.iter().all(|c| c.check != name || c.level == Level::Ok)
    }
}

fn add(checks: &mut Vec<Check>, name: &'static str, found: Result<Vec<Check>, StoreError>) {
    match found {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(Check::fail(name, format!("this could not be checked: {error}"))),
    }
}
