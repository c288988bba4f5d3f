-- After INSERT on agent_messages: writes a delivery for each recipient, in the producer's own transaction, unless the rows are left
-- to the router (triggers/leave.sql); then rings the bell if some broker sleeps. Within one INSERT, messages for a single inbox are
-- routed before those with several recipients. Statement-level, so 1,000 rows cost one call. Runs with its owner's rights and a fixed search_path: a producer needs only
-- INSERT on agent_messages. One row is refused although the table takes it: to_agent_id with the name of a group's inbox.

create or replace function postbell.route_messages() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  how text := current_setting('postbell.left', true);
  leaves boolean := false;
begin
  -- Gone with something that is needed here, by a `drop … cascade`: the insert is worth more than its delivery, which
  -- `postbell migrate` makes when it has made the rest anew.
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the message is stored and not delivered yet: run `postbell migrate`';
    return null;
  end if;
  if how = '1' then
    -- Refuses the name of a group's inbox, which the router could not.
    if exists (select from inserted where starts_with(to_agent_id, 'group:')) then
      perform postbell.agent_inbox(to_agent_id) from inserted where starts_with(to_agent_id, 'group:');
    end if;
    -- A row with another transaction than ours, from a dump or by hand, was never left.
    leaves := not exists (select from inserted where left_txid is distinct from pg_current_xact_id());
  end if;
  if not leaves then
    if how in ('0', '1', '2') then
      -- First what others left, then what this transaction left before.
      perform postbell.await_router();
      if how <> '2' then
        perform postbell.route_own();
        perform set_config('postbell.left', '2', true);
      end if;
    end if;
    -- History that is loaded with its status (a restore, an import) is not sent again.
    insert into postbell.deliveries (message_id, inbox, priority, state, due_at, ordering_key)
    select m.message_id,
           coalesce(case when starts_with(m.to_agent_id, 'group:') then postbell.agent_inbox(m.to_agent_id) else m.to_agent_id end,
                    'group:' || m.to_group),
           -- A reply to a process goes into a lane of its own, beside the window of whom it is for.
           case when m.to_instance is null then least(greatest(coalesce(m.priority, 5), 1), 10) else 0 end,
           case when m.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
           case when m.deliver_at > now() then m.deliver_at end,
           case when octet_length(m.ordering_key) > 200 then md5(m.ordering_key) else m.ordering_key end
    from inserted m
    where (m.to_agent_id is not null or m.to_group is not null) and coalesce(m.status, 'pending') = 'pending'
      and m.left_txid is distinct from pg_current_xact_id();

    -- A statement of its own: setting the join up costs every direct message 35,000 instructions, looking 20,000.
    if exists (select from inserted where to_agent_id is null and to_group is null and left_txid is distinct from pg_current_xact_id()) then
      insert into postbell.broadcasts (message_id)
      select m.message_id from inserted m
      where m.to_agent_id is null and m.to_group is null and coalesce(m.status, 'pending') = 'pending'
        and m.left_txid is distinct from pg_current_xact_id()
      on conflict do nothing;
      insert into postbell.deliveries (message_id, inbox, priority, state, due_at, ordering_key)
      select m.message_id, r.inbox, least(greatest(coalesce(m.priority, 5), 1), 10),
             case when m.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
             case when m.deliver_at > now() then m.deliver_at end,
             case when octet_length(m.ordering_key) > 200 then md5(m.ordering_key) else m.ordering_key end
      from inserted m
      cross join lateral postbell.recipients(coalesce(m.from_agent_id, ''), m.topic, m.to_environment) r (inbox)
      where m.to_agent_id is null and m.to_group is null and coalesce(m.status, 'pending') = 'pending'
        and m.left_txid is distinct from pg_current_xact_id()
        and not starts_with(r.inbox, 'group:');
    end if;
  end if;

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
