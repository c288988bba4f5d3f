-- Does the same as presence_silent.sql agent by agent, after that statement was refused. Says how many are offline now.
-- Called by src/store/presence.rs. Reads agent_registry whole.
-- $1 silent_seconds bigint
with late as (
  select array_agg(agent_id::text order by agent_id) as agents from agent_registry
  where status <> 'offline'
    and coalesce(last_heartbeat, updated_at, '-infinity') < now() - $1::bigint * interval '1 second'
)
select coalesce(cardinality(agents), 0)::bigint
         - (select count(*) from postbell.presence_each('silent', null, agents, null, null, null, null)) as n
from late
