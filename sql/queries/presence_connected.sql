-- Writes agents that have just connected here: online, and alive now. Each array has one element an agent. Gives the agents
-- that were written. triggers/presence.sql keeps the history and resolves the alert of an absence.
-- Called by src/store/presence.rs. Uses agent_registry's primary key.
-- $1 broker uuid
-- $2 agents text[]: sorted, as in every statement of presence, so that two brokers cannot deadlock
-- $3 environments text[]: as the hello said, or null
-- $4 capabilities text[]: as text; as the hello said, or null
-- $5 versions text[]: as the hello said, or null
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
