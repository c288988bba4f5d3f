-- What is known of an agent that says hello. $1 agent. Called by src/postgres/agents.rs. Uses agent_registry's
-- primary key. The hash is compared by the broker, in constant time.
select token_hash, enabled from agent_registry where agent_id = $1
