-- Writes agents whose last session here ended: offline, unless another broker still has them. Gives the agents that were
-- written; a row that somebody holds is not.
-- Called by src/store/presence.rs. Uses agent_registry's primary key.
-- $1 broker uuid
-- $2 agents text[]: sorted
-- $3 reasons text[]: why each is gone
update agent_registry r
set last_heartbeat = now(), updated_at = now(),
    connected_to = array_remove(r.connected_to, $1::uuid),
    status = case when cardinality(array_remove(r.connected_to, $1::uuid)) > 0 then r.status else 'offline' end,
    offline_reason = case when cardinality(array_remove(r.connected_to, $1::uuid)) > 0 then r.offline_reason
                          else h.reason end
from unnest($2::text[], $3::text[]) as h (agent_id, reason)
cross join lateral (
  select l.agent_id from agent_registry l where l.agent_id = any (array[h.agent_id]) for no key update skip locked
) free
where r.agent_id = any (array[free.agent_id])
returning r.agent_id::text
