-- Deletes locks whose time ended longer ago than retention keeps messages, done or not.
-- Called by src/store/forgetting.rs. Uses locks_until.
-- $1 kept_seconds bigint
-- $2 rows_max bigint
-- $3 skipped bigint: so many rows before these took no change
delete from postbell.locks
where key = any (array(select key from postbell.locks
                       where until < now() - $1::bigint * interval '1 second'
                       order by until limit $2::bigint offset $3::bigint))
