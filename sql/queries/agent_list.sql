-- Every registered agent, by name. What waits in an inbox is counted up to $1, since a backlog may hold millions.
-- Called by src/postgres/agents.rs and doctor. Reads agent_registry whole; uses deliveries_lane for each agent.
select r.agent_id, r.agent_type, r.environment, coalesce(r.role, 'agent') as role,
       coalesce(r.enabled, true) as enabled, r.status, r.token_hash is not null as has_token,
       to_char(r.token_set_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as token_set_at,
       to_char(r.last_heartbeat, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') as last_heartbeat,
       w.waiting
from agent_registry r
cross join lateral (
  select count(*) as waiting
  from (select from postbell.deliveries d
        where d.inbox = r.agent_id and d.state = 'ready' limit $1::bigint) some
) w
order by r.agent_id
