-- What was set aside and $1 of it took too long to be written: tried again later, at last once an hour. $2 the reason.
-- Called by src/store/aside.rs. Uses the primary key.
update postbell.set_aside
set tries = tries + 1, reason = $2::text,
    next_try = clock_timestamp() + least(interval '30 seconds' * 2 ^ least(tries, 7), interval '1 hour')
where aside_id = $1::bigint
