-- After INSERT on agent_alerts: a message of type alert to the topic alerts.<severity> for each alert that is active, in the
-- inserter's own transaction, and a place among those that wait to be acknowledged. An alert inserted with another status is
-- history and sends no message. The message comes from the agent that the alert is of, which does not get its own. The alert
-- is stored even if its message cannot be.

create or replace function postbell.announce_alerts() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  senders text[];
  topics text[];
  payloads jsonb[];
  priorities integer[];
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so nobody is told of the alert: run `postbell migrate`';
    return null;
  end if;
  insert into postbell.escalations (alert_id)
  select i.alert_id from inserted i where coalesce(i.status, 'active') = 'active'
  on conflict (alert_id) do nothing;
  select array_agg(coalesce(i.agent_id, '(unknown)')::text), array_agg(postbell.alert_topic(i.severity)),
         array_agg(to_jsonb(i)), array_agg(postbell.alert_priority(i.severity))
    into senders, topics, payloads, priorities
  from inserted i where coalesce(i.status, 'active') = 'active';
  if senders is null then
    return null;
  end if;
  begin
    perform postbell.send_alerts(tg_table_schema, senders, topics, payloads, priorities);
  exception
    when serialization_failure or deadlock_detected or lock_not_available then
      raise;
    when others then
      -- An adopted table of messages may be narrower than that of alerts, or a trigger of the user's refuse it.
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
