-- The row that a hello is checked against, with the limits of the agent's role. Rust compares the hashes, in constant time; the
-- previous hash is given only until its time. `rank` orders the sessions of an agent: this server's clock in µs.
-- Called by src/store/agents/admission.rs. Uses the primary keys of agent_registry and role_limits.
-- $1 agent_id text
select r.agent_id, coalesce(r.role, 'agent') as role,
       coalesce(r.environment, 'unknown') as environment, r.enabled is not false as enabled, r.token_hash,
       case when r.token_previous_until > now() then r.token_hash_previous end as token_hash_previous,
       l.sends_per_second, l.sends_burst, l.send_bytes_per_second, l.send_bytes_burst, l.publishes_outstanding,
       l.connections, l.hold_seconds, l.locks_held, l.locks_done, l.subscriptions, l.requests_per_second, l.requests_burst,
       (extract(epoch from clock_timestamp()) * 1000000)::bigint as rank
from agent_registry r
left join lateral (
  select l.* from postbell.role_limits l where l.role = any (array[r.role, 'agent'])
  order by l.role = 'agent' limit 1
) l on true
where r.agent_id = $1::text
