-- The rights on agent_registry through the API. As in agent_messages.sql, each rule is there twice.

revoke all on agent_registry from public, anon, authenticated;
grant all on agent_registry to service_role;
-- Not token_hash and token_set_at: the hash of a token is for the broker to compare, and nobody else.
grant select (agent_id, agent_name, agent_type, environment, status, last_heartbeat, capabilities, metadata, role,
              enabled, created_at, updated_at, agent_version, offline_reason) on agent_registry to authenticated;
-- The function shows each caller what the policies below let it see of the registry (sql/migrations/0012_presence.sql).
revoke all on function agent_uptime(interval) from public, anon;
grant execute on function agent_uptime(interval) to authenticated, service_role;
-- Not role, enabled and token_hash: what an agent may do is not its own to say.
grant update (status, last_heartbeat, capabilities, metadata, updated_at) on agent_registry to authenticated;
alter table agent_registry enable row level security;

-- Any agent sees whom there is to write to; somebody without a claim sees nobody.
drop policy if exists postbell_read on agent_registry;
create policy postbell_read on agent_registry for select to authenticated
  using ((select postbell.api_agent()) is not null);
drop policy if exists postbell_read_only on agent_registry;
create policy postbell_read_only on agent_registry as restrictive for select to authenticated
  using ((select postbell.api_agent()) is not null);

-- An agent writes its own heartbeat.
drop policy if exists postbell_heartbeat on agent_registry;
create policy postbell_heartbeat on agent_registry for update to authenticated
  using (agent_id = (select postbell.api_agent()))
  with check (agent_id = (select postbell.api_agent()));
drop policy if exists postbell_heartbeat_only on agent_registry;
create policy postbell_heartbeat_only on agent_registry as restrictive for update to authenticated
  using (agent_id = (select postbell.api_agent()))
  with check (agent_id = (select postbell.api_agent()));

-- Agents are registered and removed by an administrator.
drop policy if exists postbell_insert_none on agent_registry;
create policy postbell_insert_none on agent_registry as restrictive for insert to authenticated
  with check (false);
drop policy if exists postbell_delete_none on agent_registry;
create policy postbell_delete_none on agent_registry as restrictive for delete to authenticated
  using (false);
drop policy if exists postbell_anon_none on agent_registry;
create policy postbell_anon_none on agent_registry as restrictive for all to anon
  using (false)
  with check (false);
