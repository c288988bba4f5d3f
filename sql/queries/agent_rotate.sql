-- A new token; the old one is void at the next hello. $1 name, $2 SHA-256 of the token. Called by
-- src/postgres/agents.rs. Uses agent_registry's primary key.
update agent_registry set token_hash = $2, token_set_at = now(), enabled = true, updated_at = now()
where agent_id = $1
