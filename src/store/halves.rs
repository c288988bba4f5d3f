//! A search by halves for the rows at which a statement fails, takes too long, or ends the server process.
//!
//! The rows are numbered from 0. The largest parts come first, so that most rows are written whatever is found.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::blame;
use super::cut_off::Losses;
use super::error::{Fault, StoreError};
use super::pool::Pool;

/// How long a search may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct SearchTime {
    /// One statement of it.
    pub(super) a_try: Duration,
    /// All of it. The rows that are left then have their turn another time.
    pub(super) all: Duration,
}

/// Whether a search begins: the statement for all rows took too long, its server process ended, or see [`blame`].
pub(super) async fn begins(pool: &Pool, e: &StoreError) -> bool {
    e.fault() == Fault::Slow || e.is_cut_off() || blame::begins(pool, e).await
}

/// The parts that are still to be tried.
#[derive(Debug)]
pub(super) struct Halving {
    parts: VecDeque<Range<usize>>,
    until: Instant,
    losses: Losses,
}

impl Halving {
    /// A search among so many rows.
    pub(super) fn among(rows: usize, time: SearchTime, now: Instant) -> Self {
        let parts = if rows == 0 { VecDeque::new() } else { VecDeque::from([Range { start: 0, end: rows }]) };
        Self { parts, until: now + time.all, losses: Losses::new(now) }
    }

    /// The part to try now. `None`: all is done, or the time is over, or too many connections were lost.
    pub(super) fn next(&mut self, now: Instant) -> Option<Range<usize>> {
        if now >= self.until || self.losses.are_too_many(now) {
            return None;
        }
        self.parts.pop_front()
    }

    /// Notes that the statement for a part failed: its halves are tried later. Gives the error back if the part is a single row,
    /// which is then to blame.
    ///
    /// # Errors
    /// The same error, if no row can be to blame for it.
    pub(super) fn failed(
        &mut self,
        part: &Range<usize>,
        e: StoreError,
        now: Instant,
    ) -> Result<Option<StoreError>, StoreError> {
        if !e.may_be_of_a_row() {
            return Err(e);
        }
        if e.is_cut_off() {
            self.losses.add(now);
        }
        Ok(if self.halve(part) { None } else { Some(e) })
    }

    /// Has the halves of a part tried later. Returns false for a single row.
    pub(super) fn halve(&mut self, part: &Range<usize>) -> bool {
        if part.len() > 1 {
            let middle = part.start + part.len() / 2;
            self.parts.extend([part.start..middle, middle..part.end]);
        }
        part.len() > 1
    }

    /// The rows that were not tried.
    pub(super) fn untried(self) -> impl Iterator<Item = usize> {
        self.parts.into_iter().flatten()
    }
}

/// The result of writing rows by halves.
pub(super) struct Halved<'a, T, R> {
    /// The answer for each part that was written.
    pub(super) written: Vec<R>,
    /// Rows that were refused alone.
    pub(super) refused: Vec<(&'a T, StoreError)>,
    /// Whether the time was over before every row was tried.
    pub(super) is_cut_short: bool,
}

/// Writes rows in parts. `write` keeps to [`SearchTime::a_try`].
///
/// # Errors
/// An error that no row can be to blame for. Parts before it are written.
pub(super) async fn by_halves<'a, T, R, F>(
    rows: &'a [T],
    time: SearchTime,
    write: impl Fn(&'a [T]) -> F,
) -> Result<Halved<'a, T, R>, StoreError>
where
    F: Future<Output = Result<R, StoreError>>,
{
    let mut search = Halving::among(rows.len(), time, Instant::now());
    let (mut written, mut refused) = (Vec::new(), Vec::new());
    while let Some(part) = search.next(Instant::now()) {
        match write(&rows[part.clone()]).await {
            Ok(answer) => written.push(answer),
            Err(e) => {
                let alone = search.failed(&part, e, Instant::now())?;
                refused.extend(alone.map(|e| (&rows[part.start], e)));
            }
        }
    }
    let is_cut_short = search.untried().next().is_some();
    Ok(Halved { written, refused, is_cut_short })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: SearchTime = SearchTime { a_try: Duration::from_secs(1), all: Duration::from_secs(4) };

    /// The parts of five rows that are tried, in no time or in a second each, while the statement fails at row 3; the rows that are
    /// found; the rows that had no turn.
    fn searched(a_try: Duration) -> (Vec<Range<usize>>, Vec<usize>, Vec<usize>) {
        let mut now = Instant::now();
        let mut search = Halving::among(5, TIME, now);
        let (mut tried, mut found) = (Vec::new(), Vec::new());
        while let Some(part) = search.next(now) {
            now += a_try;
            tried.push(part.clone());
            if part.contains(&3) && !search.halve(&part) {
                found.push(part.start);
            }
        }
        (tried, found, search.untried().collect())
    }

    #[test]
    fn the_largest_parts_come_first_and_the_row_is_found_alone() {
        let (tried, found, untried) = searched(Duration::ZERO);
        assert_eq!(tried, [0..5, 0..2, 2..5, 2..3, 3..5, 3..4, 4..5]);
        assert_eq!((found, untried), (vec![3], vec![]));
    }

    #[test]
    fn rows_that_had_no_turn_are_told() {
        let (_, found, untried) = searched(TIME.a_try);
        assert_eq!((found, untried), (vec![], vec![3, 4]));
    }

    #[test]
    fn an_error_that_no_row_can_have_made_ends_the_search() {
        let now = Instant::now();
        let mut search = Halving::among(5, TIME, now);
        assert!(search.failed(&(0..5), StoreError::unavailable("away"), now).is_err());
        assert_eq!(Halving::among(0, TIME, now).next(now), None);
    }
}
