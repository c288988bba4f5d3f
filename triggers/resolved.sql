-- After an UPDATE of status on agent_alerts to resolved: a message to the topic alerts.resolved, if anybody subscribed to it.
-- Subscribers hear that the alert ended; without a subscriber no message is stored.

create or replace function postbell.announce_resolved() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so nobody is told that the alert is resolved: run `postbell migrate`';
    return null;
  end if;
  if exists (select from postbell.subscriptions s
             where s.pattern = any (postbell.topic_patterns('alerts.resolved'))) then
    perform postbell.send_alerts(tg_table_schema, array[coalesce(new.agent_id, '(unknown)')::text],
                                 array['alerts.resolved'], array[to_jsonb(new)],
                                 array[postbell.alert_priority(new.severity)]);
  end if;
  return null;
exception
  when serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'postbell: the alert is resolved, but agent_messages does not take its message: %', sqlerrm;
    return null;
end
$$;
revoke all on function postbell.announce_resolved() from public;

drop trigger if exists postbell_resolved on agent_alerts;
create trigger postbell_resolved
  after update of status on agent_alerts
  for each row
  when (new.status = 'resolved' and old.status is distinct from new.status)
  execute function postbell.announce_resolved();
