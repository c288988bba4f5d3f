//! The statements that run outside of a transaction, as files have them: `sql/beforehand` and migrations whose name ends in
//! `.concurrently.sql`. Three forms are understood, and each can be run again.

use super::site::IndexSite;

/// A statement that runs by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum LooseStep {
    /// `alter table TABLE add column if not exists …`: a lock for a moment.
    Columns {
        /// The table that gains the columns.
        table: String,
        /// The statement.
        sql: String,
    },
    /// `create [unique] index concurrently if not exists …`.
    Build(IndexWanted),
    /// `drop index concurrently if exists …`.
    Drop {
        /// The statement.
        sql: String,
    },
}

/// An index as a statement makes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct IndexWanted {
    /// The index's name.
    pub(in crate::store) name: String,
    /// The table's name, as the statement has it.
    pub(in crate::store) table: String,
    /// Whether a key may be there once only.
    pub(in crate::store) is_unique: bool,
    /// The part behind the table's name: `(column) where column is not null`.
    pub(in crate::store) definition: String,
}

impl LooseStep {
    /// Reads a statement; `None` if it has none of the three forms.
    pub(super) fn parse(sql: &str) -> Option<Self> {
        let text = squeezed(sql);
        if let Some(rest) = text.strip_prefix("alter table ") {
            let (table, rest) = rest.split_once(' ')?;
            let only_adds = rest.split(", ").all(|part| part.starts_with("add column if not exists "));
            return only_adds.then(|| Self::Columns { table: table.to_owned(), sql: text.clone() });
        }
        if text.starts_with("drop index concurrently if exists ") {
            return Some(Self::Drop { sql: text });
        }
        let is_loose = text.contains(" index concurrently if not exists ");
        is_loose.then(|| IndexWanted::parse(&text)).flatten().map(Self::Build)
    }
}

impl IndexWanted {
    /// Reads `create [unique] index [concurrently] [if not exists] NAME on TABLE [using btree] (…) [where …]`, also as
    /// Postgres writes it.
    pub(in crate::store) fn parse(sql: &str) -> Option<Self> {
        let text = squeezed(sql);
        let rest = text.strip_prefix("create ")?;
        let unique = rest.strip_prefix("unique ");
        let rest = unique.unwrap_or(rest).strip_prefix("index ")?;
        let rest = rest.strip_prefix("concurrently ").unwrap_or(rest);
        let rest = rest.strip_prefix("if not exists ").unwrap_or(rest);
        let (name, rest) = rest.split_once(" on ")?;
        let (table, definition) = rest.split_once(' ')?;
        let definition = definition.strip_prefix("using btree ").unwrap_or(definition);
        definition.starts_with('(').then(|| Self {
            name: name.to_owned(),
            table: table.to_owned(),
            is_unique: unique.is_some(),
            definition: definition.to_owned(),
        })
    }

    /// The statement that builds it on this site while others write there.
    pub(super) fn build(&self, site: &IndexSite) -> String {
        match site.is_partitioned {
            true => self.make(site),
            false => self.make(site).replacen(" index ", " index concurrently ", 1),
        }
    }

    /// The statement that makes it on this site, and keeps writers out meanwhile.
    pub(super) fn make(&self, site: &IndexSite) -> String {
        let unique = if self.is_unique { "unique " } else { "" };
        format!("create {unique}index {} on {} {}", site.index, site.table, self.definition)
    }

    /// The columns, and the condition of the rows that the index holds.
    pub(in crate::store) fn key(&self) -> (&str, &str) {
        let (columns, condition) =
            self.definition.split_once(" where ").unwrap_or((&self.definition, "true"));
        (columns.trim_start_matches('(').trim_end_matches(')'), condition)
    }
}

/// The statements of a file, without its comments.
pub(in crate::store) fn statements(file: &str) -> Vec<String> {
    let lines: Vec<_> = file.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let all = lines.join("\n");
    all.split(';').map(str::trim).filter(|sql| !sql.is_empty()).map(str::to_owned).collect()
}

/// A migration's text without the indexes that these statements build outside of its transaction.
pub(super) fn without_indexes(migration: &str, loose: &str) -> String {
    let builds = statements(loose).into_iter().filter(|sql| sql.contains(" index concurrently "));
    builds.fold(migration.to_owned(), |text, sql| {
        inner_forms(&sql).iter().fold(text, |text, inner| text.replace(inner, ""))
    })
}

/// The forms in which a migration may make such an index within its transaction.
fn inner_forms(sql: &str) -> [String; 2] {
    [" concurrently", " concurrently if not exists"].map(|word| format!("{};", sql.replacen(word, "", 1)))
}

/// In small letters, with one space between words.
fn squeezed(sql: &str) -> String {
    sql.split_whitespace().collect::<Vec<_>>().join(" ").to_lowercase()
}

#[cfg(test)]
mod tests;
