-- The rows of set_aside that are due, the longest due first.
-- Called by src/store/aside.rs. Uses set_aside_due.
-- $1 rows_max bigint
select aside_id from postbell.set_aside
where dropped_at is null and next_try <= now() and message_id is not null
order by next_try limit $1::bigint
