-- Sets the time of an agent's last change. This is a statement of its own because the column may be generated.
-- Called by src/store/agents.rs. Uses agent_registry's primary key.
-- $1 agent_id text
select from postbell.touch_agent($1::text)
