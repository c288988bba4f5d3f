-- Puts off a row of set_aside that took too long to write: it is tried again later, after an hour at most.
-- Called by src/store/aside.rs. Uses the primary key.
-- $1 number bigint
-- $2 reason text
update postbell.set_aside
set tries = tries + 1, reason = $2::text,
    next_try = clock_timestamp() + least(interval '30 seconds' * 2 ^ least(tries, 7), interval '1 hour')
where aside_id = $1::bigint
