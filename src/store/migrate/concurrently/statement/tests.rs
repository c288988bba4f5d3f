use super::super::super::embedded::MIGRATIONS;
use super::super::site::SiteState;
use super::*;

fn wanted(name: &str, table: &str, is_unique: bool, definition: &str) -> IndexWanted {
    IndexWanted {
        name: name.to_owned(),
        table: table.to_owned(),
        is_unique,
        definition: definition.to_owned(),
    }
}

#[test]
fn the_three_forms_are_read() {
    let sql = "create unique index concurrently if not exists a_b\n  on a (b, c) where b is not null";
    let index = wanted("a_b", "a", true, "(b, c) where b is not null");
    assert_eq!(index.key(), ("b, c", "b is not null"));
    let site = |is_partitioned| IndexSite {
        table: "part_7".to_owned(),
        index: "a_b_7".to_owned(),
        full_name: "x.a_b_7".to_owned(),
        is_whole: is_partitioned,
        is_partitioned,
        has_rows: !is_partitioned,
        state: SiteState::Missing,
    };
    assert_eq!(
        index.build(&site(false)),
        "create unique index concurrently a_b_7 on part_7 (b, c) where b is not null"
    );
    assert_eq!(index.build(&site(true)), "create unique index a_b_7 on part_7 (b, c) where b is not null");
    assert_eq!(LooseStep::parse(sql), Some(LooseStep::Build(index)));
    assert_eq!(wanted("a_b", "a", false, "(b)").key(), ("b", "true"));
    let sql = "alter table a\n  add column if not exists b text";
    assert!(matches!(LooseStep::parse(sql), Some(LooseStep::Columns { table, .. }) if table == "a"));
    assert!(matches!(
        LooseStep::parse("drop index concurrently if exists a_b"),
        Some(LooseStep::Drop { .. })
    ));
}

#[test]
fn any_other_statement_is_none_of_them() {
    for sql in [
        "create index a_b on a (b)",
        "create index concurrently a_b on a (b)",
        "create index concurrently if not exists a_b on a using gin (b)",
        "alter table a add column b text",
        "alter table a add column if not exists b text, alter column c set not null",
        "drop index concurrently a_b",
        "drop index if exists a_b",
        "update a set b = 1",
    ] {
        assert_eq!(LooseStep::parse(sql), None, "{sql}");
    }
}

#[test]
fn postgres_own_words_are_read() {
    let sql = "CREATE UNIQUE INDEX a_b ON a USING btree (b, c) WHERE (b IS NOT NULL)";
    assert_eq!(IndexWanted::parse(sql), Some(wanted("a_b", "a", true, "(b, c) where (b is not null)")));
}

#[test]
fn every_statement_that_is_carried_has_one_of_the_forms() {
    for migration in MIGRATIONS {
        for sql in statements(migration.loose()) {
            assert!(LooseStep::parse(&sql).is_some(), "{}: {sql}", migration.label());
        }
    }
}

/// Otherwise the migration would not find what was built before it, or the rehearsal would build the index under a lock.
#[test]
fn each_index_that_is_built_beforehand_is_in_its_migration_once() {
    let mut found = 0;
    for migration in MIGRATIONS {
        for sql in statements(migration.beforehand) {
            let Some(LooseStep::Build(_)) = LooseStep::parse(&sql) else { continue };
            let times: usize =
                inner_forms(&sql).iter().map(|inner| migration.sql.matches(inner).count()).sum();
            assert_eq!(times, 1, "{}: {sql}", migration.label());
            found += 1;
        }
        let left = without_indexes(migration.sql, migration.beforehand);
        assert_eq!(left == migration.sql, migration.beforehand.is_empty(), "{}", migration.label());
    }
    assert!(found >= 3, "{found}");
}

/// Where Postbell finds a table that holds rows, only these make an index in a transaction: on tables that a migration makes.
#[test]
fn no_migration_builds_an_index_on_a_table_of_the_users_in_its_transaction() {
    let made = ["agent_messages_created_at", "agent_alerts_created_at"];
    for migration in MIGRATIONS {
        let left = without_indexes(migration.sql, migration.beforehand);
        for sql in statements(&left) {
            let Some((_, index)) = sql.split_once(" index ") else { continue };
            let on_users = index.contains(" on agent_");
            let is_new = made.iter().any(|name| index.starts_with(name));
            assert!(!on_users || is_new || migration.concurrently, "{}: {sql}", migration.label());
        }
    }
}
