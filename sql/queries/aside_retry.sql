-- Tries to write what was set aside: $1 these, or (null) what is due, $2 at most so many, $3 for at most so many milliseconds.
-- A row for each that was tried: written, gone, held or refused, and why. Called by src/store/aside.rs. Uses set_aside_due
-- or the primary key.
select aside_id, became, why from postbell.retry_aside($1::bigint[], $2::bigint, $3::integer)
