-- After an UPDATE of a message's status or address by somebody else than a broker: its deliveries follow, in the same
-- transaction. A poller of the old kind that sets its message to processed, failed or a word of its own has ended it, so
-- the delivery goes; one that is set back to pending is delivered again; one that is readdressed goes to whom it is for now.
-- A broadcast that a poller ends stays with its other recipients: the row does not say who polled it. A poller's
-- `delivered` only claims. Without a list of columns, since a BEFORE trigger of the user's may change one that is not in the
-- UPDATE; the broker's own connections set postbell.broker and are passed over first, since they settle the delivery themselves.

create or replace function postbell.settle_polled() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare
  was text := coalesce(old.status, 'pending');
  becomes text := coalesce(new.status, 'pending');
  moved boolean := (old.to_agent_id, old.to_group, old.topic, old.to_environment)
                   is distinct from (new.to_agent_id, new.to_group, new.topic, new.to_environment);
  taken text;
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the delivery does not follow its message: run `postbell migrate`';
    return null;
  end if;
  -- Left to the router, which may be reading the row as it was: noted, and done once the router is past it. Nobody reads yet what
  -- our own transaction left.
  if new.left_txid is not null and new.left_txid <> pg_current_xact_id() and postbell.is_left(new.left_txid) then
    if moved and becomes in ('pending', 'delivered') then
      raise exception 'postbell: message % cannot be readdressed: it is being routed', new.message_id
        using errcode = 'object_in_use', hint = 'Try again in a second, or insert a new message for the other one.';
    end if;
    insert into postbell.unseen (message_id, moved, set_back, txid)
    values (new.message_id, moved, becomes = 'pending' and was <> 'pending', new.left_txid);
    return null;
  end if;
  if becomes not in ('pending', 'delivered') then
    if was <> becomes then
      delete from postbell.deliveries d
      where d.message_id = new.message_id
        and d.inbox in (postbell.inbox_of(old.to_agent_id, old.to_group), postbell.inbox_of(new.to_agent_id, new.to_group));
    end if;
    if moved then
      delete from postbell.deliveries d
      where d.message_id = new.message_id and d.state <> 'dead' and coalesce(new.to_agent_id, new.to_group) is not null;
    end if;
    return null;
  end if;
  if moved then
    -- A broker that has the inbox may have it in memory, or pushed already: nobody could take it back.
    select d.inbox into taken
    from postbell.deliveries d
    join postbell.leases l on l.inbox = d.inbox
    join postbell.brokers b on b.broker_id = l.broker_id and b.lease_until > clock_timestamp()
    where d.message_id = new.message_id and d.state = 'ready'
    limit 1;
    if found then
      raise exception 'postbell: message % cannot be readdressed: a broker has it for %, which is connected',
                      new.message_id, taken
        using errcode = 'object_in_use',
              hint = 'Insert a new message for the other one. Messages for agents that are not connected can be readdressed.';
    end if;
  end if;
  if postbell.follow(new.message_id, moved, becomes = 'pending' and was <> 'pending') > 0
     and pg_notification_queue_usage() < 0.9 then
    perform pg_notify('postbell', '');
  end if;
  return null;
end
$$;
revoke all on function postbell.settle_polled() from public;

drop trigger if exists postbell_poller on agent_messages;
create trigger postbell_poller
  after update on agent_messages
  for each row
  when (current_setting('postbell.broker', true) is distinct from 'on'
        and (old.status is distinct from new.status
             or (old.to_agent_id, old.to_group, old.topic, old.to_environment)
                is distinct from (new.to_agent_id, new.to_group, new.topic, new.to_environment)))
  execute function postbell.settle_polled();
