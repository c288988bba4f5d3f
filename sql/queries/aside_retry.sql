-- Tries to write rows that were set aside. One row for each that was tried: written, gone, held or refused, and why.
-- Called by src/store/aside.rs. Uses set_aside_due or the primary key.
-- $1 numbers bigint[]: these; null for all that are due
-- $2 rows_max bigint
-- $3 time_ms integer: how long this may take
select aside_id, became, why from postbell.retry_aside($1::bigint[], $2::bigint, $3::integer)
