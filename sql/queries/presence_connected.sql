-- Agents that have just connected here: online, and alive now. $1 broker; each further array has one element an agent, sorted by
-- agent as in every statement of presence, so that two brokers cannot deadlock: $2 agents, and what their hellos said, null
-- where they did not: $3 environments, $4 capabilities as text, $5 versions. triggers/presence.sql keeps the history and
-- resolves the alert of an absence. Gives those that were written. Called by src/store/presence.rs. Uses agent_registry's primary key.
update agent_registry r
set last_heartbeat = now(), updated_at = now(), status = 'online', offline_reason = null,
    connected_to = case when $1::uuid = any (r.connected_to) then r.connected_to
                        else array_append(r.connected_to, $1::uuid) end,
    environment = coalesce(h.environment, r.environment),
    capabilities = coalesce(h.capabilities::jsonb, r.capabilities),
    agent_version = coalesce(h.version, r.agent_version)
from unnest($2::text[], $3::text[], $4::text[], $5::text[]) as h (agent_id, environment, capabilities, version)
cross join lateral (
  -- A row that somebody holds is left for the next time: it must not keep the others.
  select l.agent_id from agent_registry l where l.agent_id = any (array[h.agent_id]) for no key update skip locked
) free
where r.agent_id = any (array[free.agent_id])
returning r.agent_id::text
