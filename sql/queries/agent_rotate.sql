-- Gives an agent a new token. No row changes where the agent is not registered.
-- Called by src/store/agents.rs. Uses agent_registry's primary key.
-- $1 agent_id text
-- $2 token_hash bytea: SHA-256 of the new token
-- $3 overlap_ms bigint: how long the old token is accepted besides; 0 ends it, and any older one, at once
update agent_registry
set token_hash = $2::bytea, token_set_at = now(),
    token_hash_previous = case when $3::bigint > 0 then token_hash end,
    token_previous_until = case when $3::bigint > 0 and token_hash is not null
                                then now() + $3::bigint * interval '1 millisecond' end
where agent_id = $1::text
