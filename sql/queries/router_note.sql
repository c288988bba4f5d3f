-- A round in place of router_route.sql, after that failed: notes what was left for the sweep, which takes each message by itself.
-- Called by src/store/router.rs. Uses agent_messages_left (twice) and the primary key of router.
-- $1 broker uuid
-- $2 epoch bigint
-- $3 xmax text: of the last snapshot, as text
-- $4 in_progress text[]: that snapshot's transactions in progress, as text
select is_router, pg_snapshot_xmax(snapshot)::text as xmax, array(select pg_snapshot_xip(snapshot))::text[] as in_progress,
       pg_snapshot_xmin(snapshot)::text as xmin, seen, 0::bigint as made
from postbell.route_noted($1::uuid, $2::bigint, $3::text::xid8, $4::text[]::xid8[])
