-- After INSERT on agent_messages: writes a delivery for each recipient, in the producer's own transaction, then
-- rings the bell if some broker sleeps. Statement-level, so 1,000 rows cost one call. Runs with the rights of
-- its owner and a fixed search_path: a producer needs INSERT on agent_messages and nothing else.

create or replace function postbell.route_messages() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  insert into postbell.deliveries (message_id, inbox, priority, state, due_at)
  select m.message_id, r.inbox, least(greatest(coalesce(m.priority, 5), 1), 10),
         case when m.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
         case when m.deliver_at > now() then m.deliver_at end
  from inserted m
  cross join lateral (
    select m.to_agent_id as inbox where m.to_agent_id is not null
    union all
    select a.agent_id from postbell.agents a
    where m.to_agent_id is null and a.agent_id <> m.from_agent_id
  ) r
  -- History that is loaded with its status (a restore, an import) is not sent again.
  where coalesce(m.status, 'pending') = 'pending';

  -- NOTIFY takes a lock for the whole cluster until the commit is flushed, so ring only when somebody sleeps.
  -- postbell.bell says until when, and what it says is what was set last, whatever our snapshot: our transaction has
  -- had its id since its first row, and a broker that armed later than we look waits for us to end before it sleeps.
  -- A queue of notifications that is nearly full must not stop the insert: without the ring the broker finds the message
  -- in a second at most, and it has left its bell long before.
  if pg_sequence_last_value('postbell.bell'::regclass) > date_part('epoch', now())
     and pg_notification_queue_usage() < 0.9 then
    perform pg_notify('postbell', '');
  end if;
  return null;
end
$$;
revoke all on function postbell.route_messages() from public;

drop trigger if exists postbell_route on agent_messages;
create trigger postbell_route
  after insert on agent_messages
  referencing new table as inserted
  for each statement execute function postbell.route_messages();
