-- The agent cannot say hello any more; what waits for it keeps waiting, broadcasts pass it by. $1 name. Called by
-- src/postgres/agents.rs. Uses agent_registry's primary key.
update agent_registry set enabled = false, updated_at = now() where agent_id = $1
