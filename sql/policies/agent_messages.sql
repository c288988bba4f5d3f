-- The rights on agent_messages through the API. Each rule is there twice: the permissive policy opens what it
-- says, and the restrictive one of the same condition (…_only) keeps policies that the mesh had before from opening
-- more. `(select …)` lets the planner ask who it is once a statement and not once a row.

-- Supabase's default privileges have granted everything, TRUNCATE too, which no policy governs.
revoke all on agent_messages from public, anon, authenticated;
grant all on agent_messages to service_role;
grant select on agent_messages to authenticated;
-- Not created_at and what else the broker goes by.
grant insert (message_id, from_agent_id, to_agent_id, message_type, payload, priority, status, correlation_id, dedupe_key,
              deliver_at, expires_at, headers, topic, to_environment) on agent_messages to authenticated;
-- The columns that a poller marks.
grant update (status, delivered_at, processed_at, error_message) on agent_messages to authenticated;
alter table agent_messages enable row level security;

-- As itself, to a name (no group's inbox) or a topic; to all, or to an environment, only an orchestrator. History cannot be made up: a message begins pending.
drop policy if exists postbell_send on agent_messages;
create policy postbell_send on agent_messages for insert to authenticated
  with check (from_agent_id = (select postbell.api_agent())
              and coalesce(status, 'pending') = 'pending'
              and (to_agent_id is not null or topic is not null or (select postbell.api_may_broadcast()))
              and not coalesce(starts_with(to_agent_id, 'group:'), false));
drop policy if exists postbell_send_only on agent_messages;
create policy postbell_send_only on agent_messages as restrictive for insert to authenticated
  with check (from_agent_id = (select postbell.api_agent())
              and coalesce(status, 'pending') = 'pending'
              and (to_agent_id is not null or topic is not null or (select postbell.api_may_broadcast()))
              and not coalesce(starts_with(to_agent_id, 'group:'), false));

-- An agent reads messages that were sent to it or by it, and a broadcast for as long as its own delivery is there.
drop policy if exists postbell_read on agent_messages;
create policy postbell_read on agent_messages for select to authenticated
  using (to_agent_id = (select postbell.api_agent())
         or from_agent_id = (select postbell.api_agent())
         or (to_agent_id is null and postbell.api_received(message_id)));
drop policy if exists postbell_read_only on agent_messages;
create policy postbell_read_only on agent_messages as restrictive for select to authenticated
  using (to_agent_id = (select postbell.api_agent())
         or from_agent_id = (select postbell.api_agent())
         or (to_agent_id is null and postbell.api_received(message_id)));

-- A poller marks what was sent to it; the status of a broadcast is everybody's.
drop policy if exists postbell_mark on agent_messages;
create policy postbell_mark on agent_messages for update to authenticated
  using (to_agent_id = (select postbell.api_agent()))
  with check (to_agent_id = (select postbell.api_agent()));
drop policy if exists postbell_mark_only on agent_messages;
create policy postbell_mark_only on agent_messages as restrictive for update to authenticated
  using (to_agent_id = (select postbell.api_agent()))
  with check (to_agent_id = (select postbell.api_agent()));

-- Holds if somebody grants the right again, as `grant all on all tables` does.
drop policy if exists postbell_delete_none on agent_messages;
create policy postbell_delete_none on agent_messages as restrictive for delete to authenticated
  using (false);
drop policy if exists postbell_anon_none on agent_messages;
create policy postbell_anon_none on agent_messages as restrictive for all to anon
  using (false)
  with check (false);
