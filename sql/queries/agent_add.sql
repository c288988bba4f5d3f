-- Registers an agent with a token. An agent that is registered and has no token (an adopted mesh has such) is given this one
-- and is otherwise left as it is. An agent that has a token is left alone, and no row comes.
-- Called by src/store/agents.rs. Uses agent_registry's primary key.
-- $1 agent_id text
-- $2 agent_name text
-- $3 agent_type text
-- $4 environment text
-- $5 role text
-- $6 token_hash bytea: SHA-256 of the token
select is_new, enabled, environment, role
from postbell.add_agent($1::text, $2::text, $3::text, $4::text, $5::text, $6::bytea)
