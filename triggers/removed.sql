-- After DELETE on agent_messages: a delivery without its message could never be pushed, and would be counted as
-- waiting for ever.

create or replace function postbell.remove_deliveries() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so deliveries of deleted messages stay: run `postbell migrate`';
    return null;
  end if;
  -- A router may be reading the row as it was. Asked before the deliveries are looked for: a router that is done by then has made them.
  insert into postbell.unseen (message_id, moved, set_back, txid)
  select r.message_id, false, false, r.left_txid from removed r
  where r.left_txid is not null and r.left_txid <> pg_current_xact_id() and postbell.is_left(r.left_txid);
  delete from postbell.deliveries d using removed r where d.message_id = r.message_id;
  delete from postbell.set_aside s using removed r where s.message_id = r.message_id;
  delete from postbell.broadcasts b using removed r where b.message_id = r.message_id;
  return null;
end
$$;
revoke all on function postbell.remove_deliveries() from public;

drop trigger if exists postbell_removed on agent_messages;
create trigger postbell_removed
  after delete on agent_messages
  referencing old table as removed
  for each statement execute function postbell.remove_deliveries();
