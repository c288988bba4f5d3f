-- The functions that tell the policies who asks. SECURITY DEFINER, since the roles may not look into schema postbell;
-- the policies find the functions all the same, as they hold them by number and not by name.

-- The enabled agent that the request's token names, or null. PostgREST puts the claims of a token it has verified into
-- request.jwt.claims (auth.jwt() on Supabase reads the same). Only administrators write app_metadata;
-- user_metadata is the user's own to edit. A claim of an agent that is disabled or removed is worth nothing at once,
-- however long its token is valid.
create or replace function postbell.api_agent() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select a.agent_id from postbell.agents a
  where a.agent_id = nullif(current_setting('request.jwt.claims', true), '')::jsonb -> 'app_metadata' ->> 'agent_id'
$$;
revoke all on function postbell.api_agent() from public, anon;
grant execute on function postbell.api_agent() to authenticated;

-- Whether the one who asks may send to all at once.
create or replace function postbell.api_may_broadcast() returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (select from postbell.agents a where a.agent_id = postbell.api_agent() and a.role = 'orchestrator')
$$;
revoke all on function postbell.api_may_broadcast() from public, anon;
grant execute on function postbell.api_may_broadcast() to authenticated;

-- Whether a delivery of this message is in the inbox of the one who asks. Uses deliveries_message.
create or replace function postbell.api_received(message uuid) returns boolean
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select exists (select from postbell.deliveries d
                 where d.message_id = message and d.inbox = postbell.api_agent())
$$;
revoke all on function postbell.api_received(uuid) from public, anon;
grant execute on function postbell.api_received(uuid) to authenticated;
