-- The migrations that were applied. Called by src/postgres/migrate.rs.
select version, name, sha256 from postbell.migrations order by version
