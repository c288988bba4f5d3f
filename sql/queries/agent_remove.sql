-- Forgets an agent; what waits for its name keeps waiting for an agent of that name. $1 name. Called by
-- src/postgres/agents.rs. Uses agent_registry's primary key.
delete from agent_registry where agent_id = $1
