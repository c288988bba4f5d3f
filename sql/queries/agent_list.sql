-- Every registered agent, by name, with the number of deliveries that wait for it.
-- Called by src/store/agents.rs. Reads agent_registry whole; uses deliveries_lane for each agent, and deliveries_dead.
-- $1 count_max bigint: waiting deliveries are counted up to this, since a backlog may hold millions
select r.agent_id, coalesce(r.agent_type, 'agent') as agent_type, coalesce(r.environment, 'unknown') as environment,
       coalesce(r.role, 'agent') as role, coalesce(r.enabled, true) as enabled, coalesce(r.status, 'unknown') as status, r.token_hash is not null as has_token,
       r.token_set_at, case when r.token_previous_until > now() then r.token_previous_until end as token_previous_until,
       r.last_heartbeat, w.waiting, coalesce(d.dead, 0) as dead
from agent_registry r
cross join lateral (
  select count(*) as waiting
  from (select from postbell.deliveries d
        where d.inbox = r.agent_id and d.state = 'ready' limit $1::bigint) few
) w
left join (
  select inbox, count(*) as dead from postbell.deliveries where state = 'dead' group by inbox
) d on d.inbox = r.agent_id
order by r.agent_id
