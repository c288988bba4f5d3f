-- Registers an agent, or gives its first token to one that an older mesh registered. $1 name, $2 environment,
-- $3 role, $4 SHA-256 of the token. No row: it has a token already. Called by src/postgres/agents.rs. Uses
-- agent_registry's primary key.
insert into agent_registry as r (agent_id, agent_name, agent_type, environment, status, role, token_hash, token_set_at)
values ($1, $1, $3, $2, 'offline', $3, $4, now())
on conflict (agent_id) do update
set token_hash = excluded.token_hash, token_set_at = now(), role = excluded.role, enabled = true,
    updated_at = now()
where r.token_hash is null
returning (xmax <> 0) as was_registered, environment
