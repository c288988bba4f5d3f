-- The version of these agents' rows: a row that was written has another one.
-- Called by src/store/presence.rs, after a statement for all did not write them. Uses agent_registry's primary key.
-- $1 agents text[]
select r.agent_id::text as agent_id, r.xmin::text as version
from unnest($1::text[]) as a (agent_id)
cross join lateral (select l.agent_id, l.xmin from agent_registry l where l.agent_id = any (array[a.agent_id]) offset 0) r
