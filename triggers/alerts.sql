-- After INSERT on agent_alerts: a message of type alert to the topic alerts.<severity> for each alert that is active, in the
-- inserter's own transaction, and a place among those that wait to be acknowledged. What is loaded with another status is
-- history. The message is the alert's: it comes from the agent that the alert is of, which does not get its own.

create or replace function postbell.announce_alerts() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into postbell.escalations (alert_id)
  select i.alert_id from inserted i where coalesce(i.status, 'active') = 'active'
  on conflict (alert_id) do nothing;
  begin
    insert into postbell.outbox (from_agent_id, topic, message_type, payload, priority)
    select coalesce(i.agent_id, '(unknown)'), postbell.alert_topic(i.severity), 'alert', to_jsonb(i),
           postbell.alert_priority(i.severity)
    from inserted i where coalesce(i.status, 'active') = 'active';
  exception when data_exception or integrity_constraint_violation then
    -- An adopted table of messages may be narrower than that of alerts: the alert is worth more than its message.
    raise warning 'postbell: the alert is stored, but agent_messages does not take its message: %', sqlerrm;
  end;
  return null;
end
$$;
revoke all on function postbell.announce_alerts() from public;

drop trigger if exists postbell_alerts on agent_alerts;
create trigger postbell_alerts
  after insert on agent_alerts
  referencing new table as inserted
  for each statement execute function postbell.announce_alerts();
