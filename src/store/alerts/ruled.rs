//! Raising and escalating alerts where a rule of the user's is on agent_alerts or agent_messages: Postgres then takes no INSERT
//! or UPDATE of them inside another statement, so what is one statement elsewhere is several in one transaction.
//!
//! A rule may keep an alert or its message out without an error. The alert counts as done all the same, since the next try would
//! end as this one did; the log says so.

use std::collections::BTreeSet;
use std::time::Duration;

use uuid::Uuid;

use super::{Look, next};
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::pool::Pool;
use crate::store::sql::queries;

/// The two things that are done with alerts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Raise,
    Escalate,
}

pub(super) async fn statements(
    pool: &Pool,
    act: Act,
    after: Duration,
    most: i64,
    except: &[i64],
) -> Result<Look, StoreError> {
    let connection = pool.get().await?;
    connection.batch("begin").await?;
    let done = match act {
        Act::Raise => raise(&connection, after, most, except).await,
        Act::Escalate => escalate(&connection, after, most).await,
    };
    let ended = connection.end(done.is_ok()).await;
    // Why it was rolled back says more than that.
    let (look, kept_out) = done?;
    ended?;
    if kept_out > 0 {
        tracing::warn!(
            kept_out,
            act = ?act,
            "a rule or a trigger keeps alerts or their messages out without an error; `postbell doctor` names rules"
        );
    }
    Ok(look)
}

async fn escalate(connection: &Connection, after: Duration, most: i64) -> Result<(Look, usize), StoreError> {
    let due = connection.query_one(queries::ALERTS_DUE, &[&(after.as_millis() as i64), &most]).await?;
    let alerts: Vec<Uuid> = due.cell("alerts")?;
    let mut look = Look { rows: 0, next: next(&due)? };
    if alerts.is_empty() {
        return Ok((look, 0));
    }
    connection.execute(queries::ALERTS_MARK, &[&alerts]).await?;
    let (mut messages, mut of, mut whom) = (Vec::new(), Vec::new(), Vec::new());
    for row in connection.query(queries::ALERTS_WHOM, &[&alerts]).await? {
        messages.push(row.cell::<_, Uuid>("message_id")?);
        of.push(row.cell::<_, Uuid>("alert_id")?);
        whom.push(row.cell::<_, Option<String>>("agent_id")?);
    }
    connection.execute(queries::ALERTS_TELL, &[&messages, &of, &whom]).await?;
    let there = connection.query(queries::PUBLISH_THERE, &[&messages]).await?.len();
    look.rows = of.iter().collect::<BTreeSet<_>>().len() as i64;
    Ok((look, messages.len().saturating_sub(there)))
}

async fn raise(
    connection: &Connection,
    after: Duration,
    most: i64,
    except: &[i64],
) -> Result<(Look, usize), StoreError> {
    let after = after.as_millis() as i64;
    let away = connection.query_one(queries::ALERTS_AWAY, &[&after, &most, &except]).await?;
    let (alerts, spans): (Vec<Uuid>, Vec<i64>) = (away.cell("alerts")?, away.cell("spans")?);
    let look = Look { rows: alerts.len() as i64, next: next(&away)? };
    if alerts.is_empty() {
        return Ok((look, 0));
    }
    connection.execute(queries::ALERTS_RAISE, &[&alerts, &spans]).await?;
    let raised = connection.query_one(queries::ALERTS_RAISED, &[&alerts, &spans]).await?;
    Ok((look, raised.cell::<_, i64>("kept_out")? as usize))
}
