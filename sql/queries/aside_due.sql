-- What of set_aside is due, at most $1 of it. Called by src/store/aside.rs. Uses set_aside_due.
select aside_id from postbell.set_aside
where dropped_at is null and next_try <= now() and message_id is not null
order by next_try limit $1::bigint
