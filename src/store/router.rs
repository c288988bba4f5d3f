//! The router's statements: what was left is routed in rounds, each of which begins at the snapshot of the last one.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::cell::Cells;
use super::connection::Connection;
use super::error::StoreError;
use crate::store::sql::queries;

/// This broker as the router: its epoch, and how far it came.
#[derive(Debug)]
pub(crate) struct RouterPlace {
    broker: Uuid,
    epoch: i64,
    xmax: String,
    in_progress: Vec<String>,
}

/// The result of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Routed {
    /// The messages that had been left.
    pub seen: u64,
    /// The deliveries that were made of them.
    pub made: u64,
    /// The lowest id of a transaction that the round's snapshot shows open.
    pub oldest: u64,
}

impl RouterPlace {
    /// Makes this broker the router. Returns `None` if another broker that lives is the router.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) async fn take(connection: &Connection, broker: Uuid) -> Result<Option<Self>, StoreError> {
        let row = connection.query_one(queries::ROUTER_TAKE, &[&broker]).await?;
        let Some(epoch) = row.cell::<_, Option<i64>>("epoch")? else { return Ok(None) };
        let (xmax, in_progress) = (row.cell("xmax")?, row.cell("in_progress")?);
        Ok(Some(Self { broker, epoch, xmax, in_progress }))
    }

    /// Makes the deliveries of what was left since the last round; `leave` is for how long messages may be left from
    /// then on. Returns `None` if another broker is the router now.
    ///
    /// # Errors
    /// See [`StoreError`]. Nothing was routed then.
    pub(crate) async fn route(
        &mut self,
        connection: &Connection,
        leave: Option<Duration>,
    ) -> Result<Option<Routed>, StoreError> {
        let leave_ms = leave.map(|leave| leave.as_millis() as i64);
        let row = connection
            .query_one(
                queries::ROUTER_ROUTE,
                &[&self.broker, &self.epoch, &self.xmax, &self.in_progress, &leave_ms],
            )
            .await?;
        self.advance(&row)
    }

    /// Notes what was left since the last round for the sweep, in place of [`Self::route`].
    ///
    /// # Errors
    /// See [`StoreError`]. Nothing was noted then.
    pub(crate) async fn note(&mut self, connection: &Connection) -> Result<Option<Routed>, StoreError> {
        let row = connection
            .query_one(queries::ROUTER_NOTE, &[&self.broker, &self.epoch, &self.xmax, &self.in_progress])
            .await?;
        self.advance(&row)
    }

    fn advance(&mut self, row: &Row) -> Result<Option<Routed>, StoreError> {
        if !row.cell::<_, bool>("is_router")? {
            return Ok(None);
        }
        let count = |name| row.cell::<_, i64>(name).map(i64::unsigned_abs);
        self.xmax = row.cell("xmax")?;
        self.in_progress = row.cell("in_progress")?;
        let oldest = transaction(row.cell("xmin")?)?;
        Ok(Some(Routed { seen: count("seen")?, made: count("made")?, oldest }))
    }

    /// Writes that messages are left only behind others (`stop`: not any more). Returns the id of a transaction that began
    /// afterwards.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) async fn mark(&self, connection: &Connection, stop: bool) -> Result<u64, StoreError> {
        let leave_ms = if stop { -1_i64 } else { 0 };
        connection.query_one(queries::ROUTER_WRITE, &[&self.broker, &self.epoch, &leave_ms]).await?;
        transaction(connection.query_one(queries::ROUTER_DRAW, &[]).await?.cell("drawn")?)
    }

    /// Gives the router's place back; unless all that was left is routed (`is_over`), another broker takes over at once.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub(crate) async fn give_back(self, connection: &Connection, is_over: bool) -> Result<(), StoreError> {
        connection.query_one(queries::ROUTER_GIVE, &[&self.broker, &self.epoch, &is_over]).await.map(drop)
    }
}

fn transaction(text: &str) -> Result<u64, StoreError> {
    text.parse()
        .map_err(|_| StoreError::refused(format!("the server's transaction id {text:?} is no number")))
}
