-- After UPDATE OF status on agent_messages: a poller of the old kind that sets its message to processed or
-- failed has handled it, so its delivery goes. A broadcast stays with its other recipients: the row does not
-- say who polled it. The broker's own connections set postbell.broker and are passed over, since they settle
-- the delivery themselves.

create or replace function postbell.settle_polled() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  delete from postbell.deliveries d
  where d.message_id = new.message_id and d.inbox = coalesce(new.to_agent_id, 'group:' || new.to_group);
  return null;
end
$$;
revoke all on function postbell.settle_polled() from public;

drop trigger if exists postbell_poller on agent_messages;
create trigger postbell_poller
  after update of status on agent_messages
  for each row
  when (new.status in ('processed', 'failed') and old.status is distinct from new.status
        and current_setting('postbell.broker', true) is distinct from 'on')
  execute function postbell.settle_polled();
