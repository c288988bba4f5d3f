-- Makes this broker the router; no epoch: another one that lives is, or messages could be hidden from it.
-- Called by src/store/router.rs when a broker's connection as the router begins. Uses the primary keys of router and brokers.
-- $1 broker uuid
select epoch, pg_snapshot_xmax(routed)::text as xmax, array(select pg_snapshot_xip(routed))::text[] as in_progress
from postbell.take_routing($1::uuid)
