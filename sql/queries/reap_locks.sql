-- Locks whose time ended longer ago than retention keeps messages, done or not: at most $2. $1 seconds. Called by
-- src/store/reap.rs. Uses locks_until.
delete from postbell.locks
where key = any (array(select key from postbell.locks
                       where until < now() - $1::bigint * interval '1 second'
                       order by until limit $2::bigint))
