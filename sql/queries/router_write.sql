-- Writes for how long messages may be left from now on.
-- Called by src/store/router.rs when the load has ended. Uses the primary key of router.
-- $1 broker uuid
-- $2 epoch bigint
-- $3 leave_ms bigint: 0: only behind others that are left and not routed; below 0: not any more
select postbell.left_until($1::uuid, $2::bigint, $3::bigint)
