-- Lets one migration run at a time in this database, whatever the schema. The lock is held until the session ends or
-- migrations_unlock.sql. The session's lock_timeout says how long this waits.
-- Called by src/store/migrate.rs. Reads nothing.
-- $1 lock bigint
select pg_advisory_lock($1)
