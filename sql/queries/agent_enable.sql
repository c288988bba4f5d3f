-- Lets an agent connect, or not. An agent that may not connect gets no broadcasts either. No row: it is not registered.
-- Called by src/store/agents.rs. Uses agent_registry's primary key.
-- $1 agent_id text
-- $2 enabled boolean
update agent_registry r
set enabled = $2::boolean
from (select agent_id, coalesce(enabled, true) as was from agent_registry where agent_id = $1::text for update) old
where r.agent_id = old.agent_id
returning old.was
