-- After an UPDATE of status on agent_registry that makes an agent come or go: the span that went on ends, another begins,
-- and when it came back the alert of its absence is resolved. In the row's own transaction, so the history is what the
-- registry says, whoever wrote it. Why it went is taken from a broker alone: what an agent does to its own row is meant,
-- and offline_reason may be an old one.

create or replace function postbell.keep_presence() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp
as $$
declare told uuid;
begin
  if to_regclass('postbell.intact') is null then
    raise warning 'postbell: parts of its schema are missing, so the history of presence is not kept: run `postbell migrate`';
    return null;
  end if;
  update postbell.presence_history h set until = now()
  where h.agent_id = new.agent_id and h.until = 'infinity'
  returning h.alert_id into told;
  insert into postbell.presence_history (agent_id, status, reason)
  values (new.agent_id, case when new.status = 'offline' then 'offline' else 'online' end,
          case when new.status = 'offline' and current_setting('postbell.broker', true) = 'on'
               then new.offline_reason end)
  on conflict (agent_id) where until = 'infinity' do nothing;
  if told is not null then
    perform postbell.resolve_alert(tg_table_schema, told);
  end if;
  return null;
end
$$;
revoke all on function postbell.keep_presence() from public;

drop trigger if exists postbell_presence on agent_registry;
create trigger postbell_presence
  after update of status on agent_registry
  for each row
  when ((new.status = 'offline') is distinct from (old.status = 'offline'))
  execute function postbell.keep_presence();
