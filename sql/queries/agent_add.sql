-- Registers an agent with a token: $1 agent_id, $2 agent_name, $3 agent_type, $4 environment, $5 role, $6 SHA-256
-- of the token. An agent that is registered but has no token (an adopted mesh has such) is given this one and
-- otherwise left as it is; one that has a token is left alone: no row. Called by src/postgres/agents.rs. Uses
-- agent_registry's primary key.
insert into agent_registry as r
       (agent_id, agent_name, agent_type, environment, status, role, token_hash, token_set_at)
values ($1::text, coalesce($2::text, $1::text), coalesce($3::text, $5::text, 'agent'), coalesce($4::text, 'pc'),
        'offline', coalesce($5::text, 'agent'), $6::bytea, now())
on conflict (agent_id) do update
  set token_hash = excluded.token_hash, token_set_at = excluded.token_set_at, updated_at = now()
  where r.token_hash is null
returning r.xmax = 0 as is_new, coalesce(r.enabled, true) as enabled,
          coalesce(r.environment, 'unknown') as environment, coalesce(r.role, 'agent') as role
