-- The rights on agent_metrics through the API. As in agent_messages.sql, each rule is there twice. Rights on the whole
-- table and not by column: an adopted one has what columns it likes.

revoke all on agent_metrics from public, anon, authenticated;
grant all on agent_metrics to service_role;
grant select, insert on agent_metrics to authenticated;
alter table agent_metrics enable row level security;

-- As itself.
drop policy if exists postbell_record on agent_metrics;
create policy postbell_record on agent_metrics for insert to authenticated
  with check (agent_id = (select postbell.api_agent()));
drop policy if exists postbell_record_only on agent_metrics;
create policy postbell_record_only on agent_metrics as restrictive for insert to authenticated
  with check (agent_id = (select postbell.api_agent()));

-- Any agent; somebody without a claim sees nothing.
drop policy if exists postbell_read on agent_metrics;
create policy postbell_read on agent_metrics for select to authenticated
  using ((select postbell.api_agent()) is not null);
drop policy if exists postbell_read_only on agent_metrics;
create policy postbell_read_only on agent_metrics as restrictive for select to authenticated
  using ((select postbell.api_agent()) is not null);

-- Nobody changes or deletes a measurement.
drop policy if exists postbell_update_none on agent_metrics;
create policy postbell_update_none on agent_metrics as restrictive for update to authenticated
  using (false);
drop policy if exists postbell_delete_none on agent_metrics;
create policy postbell_delete_none on agent_metrics as restrictive for delete to authenticated
  using (false);
drop policy if exists postbell_anon_none on agent_metrics;
create policy postbell_anon_none on agent_metrics as restrictive for all to anon
  using (false)
  with check (false);
