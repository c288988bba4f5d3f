-- Lets one migration run at a time in this database, whatever the schema: whether the lock was free, and is now held until the
-- session ends or migrations_unlock.sql. A statement that waited for the lock would hold a snapshot, and the CREATE INDEX
-- CONCURRENTLY of the migration that holds the lock waits for every snapshot: so it is asked again and again instead.
-- Called by src/store/migrate.rs. Reads nothing.
-- $1 lock bigint
select pg_try_advisory_lock($1) as is_ours
