-- Agents with a session here: alive now. $1 agents. A status that an agent set itself (busy, error) is left alone while it
-- lives. One row: a digest of what their hellos were checked against, which is another one when somebody's access changed,
-- or when others are here. Called by src/postgres/presence.rs. Uses agent_registry's primary key.
with here as (
  update agent_registry
  set last_heartbeat = now(), updated_at = now(),
      status = case when status in ('offline', 'starting', 'stopping') then 'online' else status end
  where agent_id = any ($1::text[])
  returning agent_id, enabled, role, token_hash,
            case when token_previous_until > now() then token_hash_previous end as token_hash_previous
)
select coalesce(sum(hashtextextended(here::text, 0)), 0)::text as access from here
