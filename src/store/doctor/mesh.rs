//! The user's tables and agents: findings that make a mesh slow, open or deaf.

use super::Check;
use crate::base::names::few;
use crate::store::cell::{Cells, Lossy};
use crate::store::connection::Connection;
use crate::store::error::{Fault, StoreError};
use crate::store::sql::queries;

/// The most names that a sentence lists.
const NAMES_MAX: usize = 10;
/// The most places for rows in a page of a table.
const PLACES_MAX: i64 = 512;
/// The registry is read row by row up to here.
const PAGES_MAX: i64 = 100_000;
/// With more rows that cannot be read, it is no row's fault.
const UNREADABLE_MAX: i64 = 100;
/// The deliveries that wait in one inbox are counted up to here.
const WAITING_COUNTED_MAX: i64 = 10_000;

/// Indexes on an adopted table that make each ack more expensive.
pub(super) async fn indexes(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let rows = connection.query(queries::DOCTOR_INDEXES, &[]).await?;
    if rows.is_empty() {
        return Ok(vec![Check::ok("indexes", "none holds what an ack changes")]);
    }
    let names: Vec<String> = rows
        .iter()
        .map(|row| {
            let columns: Vec<String> = row.cell("columns")?;
            Ok(format!("{} ({})", row.cell::<_, &str>("name")?, columns.join(", ")))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(vec![Check::warn(
        "indexes",
        format!(
            "{} on agent_messages: with any of them each ack writes to every index of the table instead of one page \
             (no HOT update). The broker uses none; if no poller needs them any more, `drop index concurrently` each",
            few(&names, NAMES_MAX)
        ),
    )])
}

/// Policies and grants that let every logged-in user read all rows.
pub(super) async fn policies(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let rows = connection.query(queries::DOCTOR_POLICIES, &[]).await?;
    let checks: Vec<_> = rows
        .iter()
        .map(|row| {
            let (table, roles): (String, Vec<String>) = (row.cell("table_name")?, row.cell("roles")?);
            let who = roles.join(" and ");
            Ok(Check::warn(
                "policies",
                match row.cell::<_, Option<String>>("policy")? {
                    Some(policy) => format!(
                        "policy \"{policy}\" lets {who} read every row of {table}: bind it to the role it is meant \
                         for, as in `alter policy \"{policy}\" on {table} to service_role`"
                    ),
                    None => format!(
                        "{who} may read every row of {table}, since row level security is off: `alter table {table} \
                         enable row level security`, or revoke the right"
                    ),
                },
            ))
        })
        .collect::<Result<_, StoreError>>()?;
    match checks.is_empty() {
        true => Ok(vec![Check::ok("policies", "no policy or grant opens all messages to every user")]),
        false => Ok(checks),
    }
}

/// Live brokers with a duty that stands still.
pub(super) async fn brokers(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let rows = connection.query(queries::DOCTOR_BROKERS, &[]).await?;
    let mut checks = Vec::new();
    for row in &rows {
        let (name, standstill): (String, Option<String>) = (row.try_get("name")?, row.try_get("standstill")?);
        if let Some(sentences) = standstill {
            checks.push(Check::fail("brokers", format!("{name} stands still: {sentences}")));
        }
    }
    if checks.is_empty() {
        checks.push(Check::ok(
            "brokers",
            match rows.len() {
                0 => "none is running".to_owned(),
                1 => "one is running, and every part of it gets on".to_owned(),
                n => format!("{n} are running, and every part of each gets on"),
            },
        ));
    }
    Ok(checks)
}

/// Agents that cannot connect because they have no token.
pub(super) async fn agents(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let mut checks = Vec::new();
    let (registered, without) = match connection.query_one(queries::DOCTOR_AGENTS, &[]).await {
        Err(e) if e.fault() == Fault::Refused => {
            let (registered, without, unreadable) = agents_by_pages(connection, e.to_string()).await?;
            checks.push(unreadable);
            (registered, without)
        }
        row => {
            let row = row?;
            (row.cell("registered")?, names(row.cell("without_token")?))
        }
    };
    checks.push(match (registered, without.first()) {
        (0, _) => Check::warn(
            "agents",
            "none is registered, so none can connect: `postbell agent add NAME --environment pc`",
        ),
        (_, Some(first)) => Check::warn(
            "agents",
            format!(
                "{} of {registered} have no token and cannot connect ({}): `postbell agent add {first}` gives one",
                without.len(),
                few(&without, NAMES_MAX)
            ),
        ),
        (_, None) => Check::ok("agents", format!("{registered} registered, all with a token")),
    });
    Ok(checks)
}

/// Reads the registry's rows by their places, in smaller and smaller groups, since one of them cannot be read: how many can, which of
/// them have no token, and a finding about the others.
async fn agents_by_pages(
    connection: &Connection,
    why: String,
) -> Result<(i64, Vec<String>, Check), StoreError> {
    let pages: i64 = connection.query_one(queries::DOCTOR_PAGES, &[]).await?.cell("pages")?;
    let (mut registered, mut without, mut unreadable) = (0, Vec::new(), 0);
    // A place is a page and a number in it, of at most PLACES_MAX.
    let all = pages.min(PAGES_MAX) * PLACES_MAX;
    let mut groups = Vec::from([(0, all)]);
    while let Some((start, end)) = groups.pop() {
        let place = |n: i64| format!("({},{})", n / PLACES_MAX, n % PLACES_MAX);
        let (from, to) = (place(start), place(end));
        match connection.query_one(queries::DOCTOR_AGENTS_AT, &[&from, &to]).await {
            Ok(row) => {
                registered += row.cell::<_, i64>("registered")?;
                without.extend(names(row.cell("without_token")?));
            }
            Err(e) if e.fault() != Fault::Refused || unreadable >= UNREADABLE_MAX => return Err(e),
            Err(_) if end - start <= 1 => unreadable += 1,
            Err(_) => {
                let middle = start + (end - start) / 2;
                groups.extend([(middle, end), (start, middle)]);
            }
        }
    }
    let sentence = format!(
        "{unreadable} rows of agent_registry cannot be read, so these agents cannot connect and their presence is not \
         written: {why}. Mend the policy or the function that raises"
    );
    Ok((registered, without, Check::fail("agents", sentence)))
}

fn names(texts: Vec<Lossy>) -> Vec<String> {
    texts.into_iter().map(|text| text.0).collect()
}

/// Messages for names under which nobody is registered: misspelt, or of an agent that is yet to come.
pub(super) async fn recipients(connection: &Connection) -> Result<Vec<Check>, StoreError> {
    let asked = NAMES_MAX as i64 + 1;
    let rows = connection.query(queries::DOCTOR_UNKNOWN, &[&asked, &WAITING_COUNTED_MAX]).await?;
    if rows.is_empty() {
        return Ok(vec![Check::ok("recipients", "every message that waits is for a registered agent")]);
    }
    let mut names: Vec<String> = rows
        .iter()
        .take(NAMES_MAX)
        .map(|row| {
            let waiting: i64 = row.cell("waiting")?;
            let more = if waiting == WAITING_COUNTED_MAX { " or more" } else { "" };
            Ok(format!("{} ({waiting}{more})", row.text("name")?.unwrap_or_default()))
        })
        .collect::<Result<_, StoreError>>()?;
    if rows.len() > NAMES_MAX {
        names.push("and others".to_owned());
    }
    Ok(vec![Check::warn(
        "recipients",
        format!(
            "messages wait for names that no agent is registered under: {}. Register them (`postbell agent add`), or \
             correct the sender",
            names.join(", ")
        ),
    )])
}
