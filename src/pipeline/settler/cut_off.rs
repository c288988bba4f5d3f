//! A batch in which the server process ends at a row: searched by halves. The row's status is set aside, and all other outcomes are
//! written.

use std::time::Duration;
use tokio::time::Instant;

use uuid::Uuid;

use super::{Desk, one_by_one};
use crate::store::StoreError;
use crate::store::cut_off::{ENDED, halves};
use crate::store::settle::{Settled, settle_untried};
use postbell_engine::inbox::event::Settle;

/// A batch that lost so many connections in a row is searched, since each of them could be opened.
const CUT_OFF_MAX: u32 = 2;
/// How long another such row is expected after one was found.
const EXPECTED_FOR: Duration = Duration::from_secs(30);
/// The reason of outcomes that are set aside untried.
const TOO_MANY: &str = "the server process ends at rows of agent_messages, and more may be among them: it is tried again by itself";

impl Desk {
    /// How many connections a batch may lose before it is searched.
    pub(super) fn cut_off_max(&mut self) -> u32 {
        let now = Instant::now();
        match (self.losses.are_too_many(now), now < self.ends_until) {
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => CUT_OFF_MAX,
        }
    }

    /// Writes the outcomes in smaller and smaller groups. One that loses the connection alone is written without its row, and so
    /// are all while too many connections were lost.
    pub(super) async fn search(&mut self, broker: Uuid, batch: &[Settle]) -> Result<Settled, StoreError> {
        let mut all = Settled::default();
        let mut groups = vec![batch];
        while let Some(group) = groups.pop() {
            let mut settled = None;
            let mut why = TOO_MANY;
            if !self.losses.are_too_many(Instant::now()) {
                match one_by_one(self.connection.get().await?, broker, group).await {
                    Err(e) if e.is_cut_off() => {
                        tracing::debug!(error = %e, outcomes = group.len(), "looking for the row at which the server process ends");
                        self.losses.add(Instant::now());
                        self.ends_until = Instant::now() + EXPECTED_FOR;
                        why = ENDED;
                    }
                    tried => settled = Some(tried?),
                }
            }
            let settled = match (settled, group) {
                (Some(settled), _) => settled,
                (None, [_, _, ..]) if why == ENDED => {
                    groups.extend(halves(group));
                    continue;
                }
                (None, _) => settle_untried(self.connection.get().await?, broker, group, why).await?,
            };
            all.became.extend(settled.became);
            all.why = all.why.or(settled.why);
        }
        Ok(all)
    }
}
