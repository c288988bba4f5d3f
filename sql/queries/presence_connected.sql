-- Agents that have just connected here: online, and alive now. $1 agents. Called by src/postgres/presence.rs.
-- Uses agent_registry's primary key.
update agent_registry set last_heartbeat = now(), updated_at = now(), status = 'online'
where agent_id = any ($1::text[])
