//! Many rows by one statement, and by smaller and smaller ones where a row may be to blame: so that row is found, and all others
//! are written.

use tokio::time::Instant;

use super::cut_off::{Losses, halves};
use super::error::StoreError;

/// The result of a search.
pub(crate) struct Searched<'a, T, R> {
    /// The answer for each part that was written.
    pub written: Vec<R>,
    /// Rows that were refused alone.
    pub refused: Vec<(&'a T, StoreError)>,
    /// Whether the time was over before every row was tried.
    pub is_cut_short: bool,
}

/// Writes rows in halves, until a time. `write` has a short limit of its own, since a row may be slow.
///
/// # Errors
/// An error that no row can be to blame for. Parts before it are written.
pub(crate) async fn by_halves<'a, T, R, F>(
    rows: &'a [T],
    until: Instant,
    write: impl Fn(&'a [T]) -> F,
) -> Result<Searched<'a, T, R>, StoreError>
where
    F: Future<Output = Result<R, StoreError>>,
{
    let mut found = Searched { written: Vec::new(), refused: Vec::new(), is_cut_short: false };
    let mut losses = Losses::new(Instant::now());
    let mut parts = vec![rows];
    while let Some(part) = parts.pop() {
        if Instant::now() >= until || losses.are_too_many(Instant::now()) {
            found.is_cut_short = true;
            break;
        }
        match (write(part).await, part) {
            (Ok(written), _) => found.written.push(written),
            (Err(e), _) if !e.may_be_of_a_row() => return Err(e),
            (Err(e), part) => {
                if e.is_cut_off() {
                    losses.add(Instant::now());
                }
                match part {
                    [row] => found.refused.push((row, e)),
                    _ => parts.extend(halves(part)),
                }
            }
        }
    }
    Ok(found)
}
