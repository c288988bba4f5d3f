-- Every agent, with what waits for it. Called by src/postgres/agents.rs. Walks agent_registry; counts by
-- deliveries_lane and deliveries_dead's rows by inbox.
select r.agent_id, r.environment, r.role, r.status, r.enabled, r.token_hash is not null as has_token,
       r.last_heartbeat, coalesce(w.ready, 0) as ready, coalesce(w.dead, 0) as dead
from agent_registry r
left join (
  select inbox, count(*) filter (where state <> 'dead') as ready, count(*) filter (where state = 'dead') as dead
  from postbell.deliveries group by inbox
) w on w.inbox = r.agent_id
order by r.environment, r.agent_id
