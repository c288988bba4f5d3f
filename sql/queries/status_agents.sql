-- The registry for the status page, by name: who is where, as presence has it, and which broker has the inbox.
-- Called by src/store/status.rs while somebody watches. Reads agent_registry whole; uses the primary keys of leases and brokers.
-- $1 agents_max bigint
select r.agent_id, coalesce(r.agent_type, 'agent') as agent_type, coalesce(r.environment, 'unknown') as environment,
       coalesce(r.role, 'agent') as role, r.enabled is not false as enabled, coalesce(r.status, 'unknown') as status,
       case when isfinite(r.last_heartbeat) then extract(epoch from now() - r.last_heartbeat)::float8 end as seen_seconds,
       b.broker_id,
       b.name as broker
from agent_registry r
left join postbell.leases l on l.inbox = r.agent_id
left join postbell.brokers b on b.broker_id = l.broker_id
order by r.agent_id
limit $1::bigint
