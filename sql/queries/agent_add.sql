-- Registers an agent with a token: $1 agent_id, $2 agent_name, $3 agent_type, $4 environment, $5 role, $6 SHA-256
-- of the token. An agent that is registered but has no token (an adopted mesh has such) is given this one and
-- otherwise left as it is; one that has a token is left alone: no row. Called by src/store/agents.rs. Uses
-- agent_registry's primary key.
select is_new, enabled, environment, role
from postbell.add_agent($1::text, $2::text, $3::text, $4::text, $5::text, $6::bytea)
