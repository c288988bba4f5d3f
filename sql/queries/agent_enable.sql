-- Lets an agent connect, or not: $1 agent_id, $2 whether. One that may not gets no broadcasts either. No row: not
-- registered. Called by src/store/agents.rs. Uses agent_registry's primary key.
update agent_registry r
set enabled = $2::boolean
from (select agent_id, coalesce(enabled, true) as was from agent_registry where agent_id = $1::text for update) old
where r.agent_id = old.agent_id
returning old.was
