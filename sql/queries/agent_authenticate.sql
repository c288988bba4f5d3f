-- What a hello is checked against: $1 agent_id. The hashes are compared in Rust, in constant time.
-- Called by src/postgres/agents.rs. Uses agent_registry's primary key.
select agent_id, coalesce(role, 'agent') as role, environment, token_hash
from agent_registry
where agent_id = $1::text and enabled is not false
