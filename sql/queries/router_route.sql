-- A round of the router: makes the deliveries of what was left since the last round, and says where the next one begins.
-- Called by src/store/router.rs, every few milliseconds while messages are being left. Uses agent_messages_left (twice), the primary
-- keys of router, broadcasts and set_aside, and deliveries_message: the cost is the new messages, never the backlog.
-- $1 broker uuid
-- $2 epoch bigint
-- $3 xmax text: of the last snapshot, as text
-- $4 in_progress text[]: that snapshot's transactions in progress, as text
-- $5 leave_ms bigint: for how long messages may be left from now on, 0: only behind others that are left and not routed; null: as it
--    is
select is_router, pg_snapshot_xmax(snapshot)::text as xmax, array(select pg_snapshot_xip(snapshot))::text[] as in_progress,
       pg_snapshot_xmin(snapshot)::text as xmin, seen, made
from postbell.route($1::uuid, $2::bigint, $3::text::xid8, $4::text[]::xid8[], $5::bigint)
