-- After INSERT or DELETE on agent_registry: an agent's first span begins, or its last one ends. The alert of an agent that
-- was removed while it was away is resolved: nobody waits for it any more.

create or replace function postbell.keep_known() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare told uuid;
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the history of presence is not kept: run `postbell migrate`';
    return null;
  end if;
  if tg_op = 'INSERT' then
    insert into postbell.presence_history (agent_id, status)
    values (new.agent_id, case when new.status = 'offline' then 'offline' else 'online' end)
    on conflict (agent_id) where until = 'infinity' do nothing;
    return null;
  end if;
  update postbell.presence_history h set until = now()
  where h.agent_id = old.agent_id and h.until = 'infinity'
  returning h.alert_id into told;
  if told is not null then
    perform postbell.resolve_alert(tg_table_schema, told);
  end if;
  return null;
end
$$;
revoke all on function postbell.keep_known() from public;

drop trigger if exists postbell_known on agent_registry;
create trigger postbell_known
  after insert or delete on agent_registry
  for each row execute function postbell.keep_known();
