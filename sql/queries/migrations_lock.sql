-- One migration at a time in this database, whatever the schema; $1 names the lock. Held until the session ends or
-- migrations_unlock.sql. How long it waits is the session's lock_timeout. Called by src/store/migrate.rs.
select pg_advisory_lock($1)
