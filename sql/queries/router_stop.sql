-- Writes that nothing is left any more, then draws a transaction's id: all who may have read the old value have a lower one.
-- Called by src/store/router.rs. Uses the primary key of router.
-- $1 broker uuid
-- $2 epoch bigint
select postbell.stop_leaving($1::uuid, $2::bigint)::text as drawn
