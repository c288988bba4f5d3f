-- Where session_replication_role is replica, and there alone: what is written to agent_messages is noted, for a broker to make
-- its deliveries (postbell.sweep). Logical replication and tools that load data write so, and no other trigger of Postbell's
-- fires for them. Routing at once would be wrong: a restore brings the deliveries as well, after the messages.

create or replace function postbell.note_unseen() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the message is not delivered yet: run `postbell migrate`';
    return null;
  end if;
  if tg_op = 'DELETE' then
    insert into postbell.unseen (message_id, moved, set_back) values (old.message_id, false, false);
  elsif tg_op = 'INSERT' then
    if coalesce(new.status, 'pending') = 'pending' then
      insert into postbell.unseen (message_id, moved, set_back) values (new.message_id, false, false);
    end if;
  elsif (old.status, old.to_agent_id, old.to_group, old.topic, old.to_environment)
        is distinct from (new.status, new.to_agent_id, new.to_group, new.topic, new.to_environment) then
    insert into postbell.unseen (message_id, moved, set_back)
    values (new.message_id,
            (old.to_agent_id, old.to_group, old.topic, old.to_environment)
              is distinct from (new.to_agent_id, new.to_group, new.topic, new.to_environment),
            coalesce(new.status, 'pending') = 'pending' and coalesce(old.status, 'pending') <> 'pending');
  end if;
  return null;
end
$$;
revoke all on function postbell.note_unseen() from public;

drop trigger if exists postbell_unseen on agent_messages;
create trigger postbell_unseen
  after insert or update or delete on agent_messages
  for each row execute function postbell.note_unseen();
alter table agent_messages enable replica trigger postbell_unseen;
