-- The rights on agent_alerts through the API. As in agent_messages.sql, each rule is there twice. An alert becomes a
-- message in its agent's name, so nobody may raise one for another.

revoke all on agent_alerts from public, anon, authenticated;
grant all on agent_alerts to service_role;
grant select on agent_alerts to authenticated;
grant insert (alert_id, agent_id, alert_type, severity, message, details, status) on agent_alerts to authenticated;
grant update (status, acknowledged_at, resolved_at, resolved_by) on agent_alerts to authenticated;
alter table agent_alerts enable row level security;

-- As itself; it begins active.
drop policy if exists postbell_raise on agent_alerts;
create policy postbell_raise on agent_alerts for insert to authenticated
  with check (agent_id = (select postbell.api_agent()) and coalesce(status, 'active') = 'active');
drop policy if exists postbell_raise_only on agent_alerts;
create policy postbell_raise_only on agent_alerts as restrictive for insert to authenticated
  with check (agent_id = (select postbell.api_agent()) and coalesce(status, 'active') = 'active');

-- Any agent sees what is wrong; somebody without a claim sees nothing.
drop policy if exists postbell_read on agent_alerts;
create policy postbell_read on agent_alerts for select to authenticated
  using ((select postbell.api_agent()) is not null);
drop policy if exists postbell_read_only on agent_alerts;
create policy postbell_read_only on agent_alerts as restrictive for select to authenticated
  using ((select postbell.api_agent()) is not null);

-- An agent may end its own alerts, and an orchestrator all.
drop policy if exists postbell_acknowledge on agent_alerts;
create policy postbell_acknowledge on agent_alerts for update to authenticated
  using (agent_id = (select postbell.api_agent()) or (select postbell.api_may_broadcast()))
  with check (agent_id = (select postbell.api_agent()) or (select postbell.api_may_broadcast()));
drop policy if exists postbell_acknowledge_only on agent_alerts;
create policy postbell_acknowledge_only on agent_alerts as restrictive for update to authenticated
  using (agent_id = (select postbell.api_agent()) or (select postbell.api_may_broadcast()))
  with check (agent_id = (select postbell.api_agent()) or (select postbell.api_may_broadcast()));

drop policy if exists postbell_delete_none on agent_alerts;
create policy postbell_delete_none on agent_alerts as restrictive for delete to authenticated
  using (false);
drop policy if exists postbell_anon_none on agent_alerts;
create policy postbell_anon_none on agent_alerts as restrictive for all to anon
  using (false)
  with check (false);
