-- A new token for an agent: $1 agent_id, $2 SHA-256 of the token. The old one ends with the next hello. No row: not
-- registered. Called by src/postgres/agents.rs. Uses agent_registry's primary key.
update agent_registry
set token_hash = $2::bytea, token_set_at = now(), updated_at = now()
where agent_id = $1::text
