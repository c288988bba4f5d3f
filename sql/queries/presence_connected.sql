-- Agents with a session here: online, and alive now. $1 agents; $2 whether they have just connected. A status
-- that an agent set itself (busy, error) is left alone while it lives. Called by src/postgres/presence.rs.
-- Uses agent_registry's primary key.
update agent_registry
set last_heartbeat = now(), updated_at = now(),
    status = case when $2 or status in ('offline', 'starting', 'stopping') then 'online' else status end
where agent_id = any ($1::text[])
