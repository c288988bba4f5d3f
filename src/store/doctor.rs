//! `postbell doctor`: looks for whatever could keep a broker from working here, and says what to do about each
//! finding.
//!
//! A check that cannot be made counts as failed and does not end the others; only an unreachable database does.

mod aside;
mod house;
mod mesh;
pub mod open;
mod rehearsal;
mod server;

use serde::Serialize;

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
    /// The result.
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

/// Makes every check. The first failure is usually the cause of later ones.
pub async fn examine(target: &Target) -> Vec<Check> {
    let mut checks = server::url(target);
    let connection = match Connection::open(target).await {
        Ok(connection) => connection,
        Err(error) => {
            checks.push(Check::fail("reachable", format!("{}: {error}", target.url)));
            return checks;
        }
    };
    checks.push(Check::ok("reachable", format!("connected to {}", target.url)));
    add(&mut checks, "server", server::server(&connection, target).await);
    checks.push(server::listens(target).await);
    add(&mut checks, "clock", server::clock(&connection).await);
    add(&mut checks, "schema", house::schema(&connection).await);
    let is_installed = checks.iter().all(|c| c.check != "schema" || c.level == Level::Ok);
    add(&mut checks, "rights", house::rights(&connection).await);
    add(&mut checks, "indexes", mesh::indexes(&connection).await);
    add(&mut checks, "policies", mesh::policies(&connection).await);
    add(&mut checks, "api roles", open::open(&connection).await);
    // These read tables that the migrations make.
    if is_installed {
        // Without the rights, the rehearsal would only repeat that they are lacking.
        if checks.iter().all(|c| c.check != "rights" || c.level == Level::Ok) {
            add(&mut checks, "rehearsal", rehearsal::rehearsal(&connection).await);
        }
        add(&mut checks, "brokers", mesh::brokers(&connection).await);
        add(&mut checks, "agents", mesh::agents(&connection).await);
        add(&mut checks, "recipients", mesh::recipients(&connection).await);
        add(&mut checks, "set aside", aside::set_aside(&connection).await);
        add(&mut checks, "deliveries", house::unrouted(&connection).await);
    }
    checks
}

fn add(checks: &mut Vec<Check>, name: &'static str, found: Result<Vec<Check>, StoreError>) {
    match found {
        Ok(found) => checks.extend(found),
        Err(error) => checks.push(Check::fail(name, format!("this could not be checked: {error}"))),
    }
}

/// Names in a sentence, cut after `at_most`.
fn listed(names: &[String], at_most: usize) -> String {
    match names.len() {
        n if n > at_most => format!("{} and {} more", names[..at_most].join(", "), n - at_most),
        _ => names.join(", "),
    }
}
