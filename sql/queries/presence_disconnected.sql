-- Agents whose last session here ended. $1 agents. Called by src/postgres/presence.rs. Uses agent_registry's
-- primary key.
update agent_registry set status = 'offline', last_heartbeat = now(), updated_at = now()
where agent_id = any ($1::text[])
