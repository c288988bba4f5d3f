-- The time of an agent's last change, beside what changes it: the column may be generated. $1 agent_id. Called by
-- src/store/agents.rs. Uses agent_registry's primary key.
select from postbell.touch_agent($1::text)
