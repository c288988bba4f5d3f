-- After TRUNCATE on agent_messages, which fires no DELETE trigger: the deliveries of all messages go with them.
-- DELETE and not TRUNCATE here, whose lock could meet a broker's that settles in the other order. Fires also for logical
-- replication, which no row tells of.

create or replace function postbell.remove_all_deliveries() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so deliveries of removed messages stay: run `postbell migrate`';
    return null;
  end if;
  delete from postbell.deliveries;
  delete from postbell.set_aside where message_id is not null;
  delete from postbell.broadcasts;
  return null;
end
$$;
revoke all on function postbell.remove_all_deliveries() from public;

drop trigger if exists postbell_truncated on agent_messages;
create trigger postbell_truncated
  after truncate on agent_messages
  for each statement execute function postbell.remove_all_deliveries();
alter table agent_messages enable always trigger postbell_truncated;
