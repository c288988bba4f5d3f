-- Gives back the lock of migrations_lock.sql at once, also where a pooler keeps the session open.
-- Called by src/store/migrate.rs. Reads nothing.
-- $1 lock bigint
select pg_advisory_unlock($1)
