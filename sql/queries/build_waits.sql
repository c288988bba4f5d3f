-- The sessions for which the migration that holds the lock waits. A prepared transaction has no session.
-- Called by src/store/migrate/concurrently/patience.rs. Reads the server's state.
-- $1 lock bigint: that of migrations_lock.sql
select b.pid, coalesce(a.application_name, '') as application, coalesce(a.state, '') as state,
       coalesce(extract(epoch from now() - a.xact_start), 0)::bigint as seconds
from pg_locks l
cross join lateral unnest(pg_blocking_pids(l.pid)) b (pid)
left join pg_stat_activity a on a.pid = b.pid
where l.locktype = 'advisory' and l.granted and l.objsubid = 1 and (l.classid::bigint << 32 | l.objid::bigint) = $1::bigint
  and l.database = (select d.oid from pg_database d where d.datname = current_database())
