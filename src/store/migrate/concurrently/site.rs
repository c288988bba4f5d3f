//! The places where an index belongs, and what is there.

use super::statement::IndexWanted;
use crate::store::cell::Cells;
use crate::store::connection::Connection;
use crate::store::error::StoreError;
use crate::store::sql::queries;

/// A table on which an index is built: the index's own, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct IndexSite {
    /// The table, as this session names it.
    pub(in super::super) table: String,
    /// The index, without its schema.
    pub(in super::super) index: String,
    /// The index, with its schema.
    pub(in super::super) full_name: String,
    /// Whether it is the index's own table, and not a part.
    pub(in super::super) is_whole: bool,
    /// Whether it has parts. Postgres makes no index on it concurrently; it finds those of its parts, and reads no row.
    pub(in super::super) is_partitioned: bool,
    /// Whether the table has rows of its own, or had some.
    pub(in super::super) has_rows: bool,
    /// Whether something has the index's name there.
    pub(in super::super) state: SiteState,
}

/// The bearer of an index's name on a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum SiteState {
    Missing,
    /// The index, or another one that serves.
    There,
    /// The index, as an interrupted build left it, or of a table that had the name before.
    Left,
    /// Something else, which is the user's.
    Taken,
}

impl IndexSite {
    /// Whether the index is to be built here.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, SiteState::Missing | SiteState::Left)
    }
}

/// Returns where the index belongs, parts before the whole. Nothing is returned of a table that is not there, and only the
/// whole of one that has its index.
pub(super) async fn sites(
    connection: &Connection,
    index: &IndexWanted,
) -> Result<Vec<IndexSite>, StoreError> {
    let IndexWanted { name, table, is_unique, definition } = index;
    let rows = connection.query(queries::INDEX_SITES, &[table, name, is_unique, definition]).await?;
    let mut sites = Vec::new();
    for row in &rows {
        sites.push(IndexSite {
            table: row.cell("table_name")?,
            index: row.cell("index_name")?,
            full_name: row.cell("full_name")?,
            is_whole: row.cell("is_whole")?,
            is_partitioned: row.cell("is_partitioned")?,
            has_rows: row.cell("has_rows")?,
            state: match row.cell("state")? {
                "missing" => SiteState::Missing,
                "left" => SiteState::Left,
                "taken" => SiteState::Taken,
                _ => SiteState::There,
            },
        });
    }
    if sites.iter().any(|site| site.is_whole && site.state == SiteState::There) {
        sites.retain(|site| site.is_whole);
    }
    Ok(sites)
}
