-- Messages that row level security hides for a while keep their deliveries; a status that a trigger of the user's puts back is not
-- written.

-- Whether row level security may hide messages from the view `postbell.messages`, which reads with its owner's rights. A message
-- that is not there may then be there all the same.
create function postbell.may_hide() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
    join pg_class c on c.oid = d.refobjid and c.relrowsecurity
    join pg_class v on v.oid = r.ev_class
    join pg_roles o on o.oid = v.relowner
    where r.ev_class = to_regclass('postbell.messages') and not (o.rolsuper or o.rolbypassrls)
      and (c.relforcerowsecurity or not pg_has_role(o.oid, c.relowner, 'usage')))
$$;
revoke all on function postbell.may_hide() from public;

-- As in 0018, but what may only be hidden keeps its deliveries.
create or replace function postbell.follow(id uuid, moved boolean, set_back boolean) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  m record;
  waits boolean;
  gone bigint := 0;
  again bigint := 0;
begin
  select x.status, postbell.inbox_of(x.to_agent_id, x.to_group) as inbox into m
  from postbell.messages x where x.message_id = id;
  if not found then
    if postbell.may_hide() then
      return 0;
    end if;
    delete from postbell.deliveries d where d.message_id = id;
    delete from postbell.broadcasts b where b.message_id = id;
    return 0;
  end if;
  waits := coalesce(m.status, 'pending') = 'pending';
  if not waits and m.status <> 'delivered' then
    -- It has ended, in whatever word. A dead letter is told as failed: it stays. A message to many stays with its other
    -- recipients: the row does not say who ended it.
    delete from postbell.deliveries d where d.message_id = id and m.inbox is not null and d.state <> 'dead';
    return 0;
  end if;
  if moved then
    -- It begins anew, also where some of those it was for had handled it, or given it up.
    delete from postbell.deliveries d where d.message_id = id;
    get diagnostics gone = row_count;
    delete from postbell.broadcasts b where b.message_id = id;
    if waits then
      return postbell.route_again(array[id]);
    end if;
    -- A poller has it, and hands it on: who it is for now gets it, if anybody was to get it.
    if gone > 0 and m.inbox is not null then
      insert into postbell.deliveries (message_id, inbox, priority, ordering_key)
      select id, m.inbox, least(greatest(coalesce(x.priority, 5), 1), 10),
             case when octet_length(x.ordering_key) > 200 then md5(x.ordering_key) else x.ordering_key end
      from postbell.messages x where x.message_id = id;
      return 1;
    end if;
    return 0;
  end if;
  if not waits then
    return 0;
  end if;
  if set_back then
    -- As a redrive, which does not count what failed before.
    update postbell.deliveries d
    set state = 'ready', dead_at = null, attempt = 0, last_error = null, txid = pg_current_xact_id()
    where d.message_id = id and d.state = 'dead';
    get diagnostics again = row_count;
    -- To many: all of them again, unless some have not ended with it yet.
    if not exists (select from postbell.deliveries d where d.message_id = id) then
      delete from postbell.broadcasts b where b.message_id = id;
    end if;
  end if;
  return again + postbell.route_again(array[id]);
end
$$;

-- The same.
create or replace function postbell.look_at_all() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  -- Before anything is read: what is touched meanwhile is looked at again.
  found_marks text := postbell.trigger_marks();
  ids uuid[];
  id uuid;
  made bigint := 0;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('postbell.look', 0)) then
    return null;
  end if;
  begin
    delete from postbell.deliveries d where not exists (select from postbell.messages m where m.message_id = d.message_id)
    and not postbell.may_hide();
    delete from postbell.deliveries d using postbell.messages m
    where m.message_id = d.message_id and d.state <> 'dead' and (m.to_agent_id is not null or m.to_group is not null)
      and (m.status not in ('pending', 'delivered')
           -- Readdressed.
           or d.inbox <> postbell.inbox_of(m.to_agent_id, m.to_group));
  exception when others or assert_failure then
    -- One of their messages cannot be read, or more: delivery by delivery, without these. A table or a column that is missing
    -- is no message's fault.
    perform m.status, m.to_agent_id, m.to_group from postbell.messages m where false;
    for id in select distinct d.message_id from postbell.deliveries d loop
      begin
        delete from postbell.deliveries d
        where d.message_id = id and not exists (
          select from postbell.messages m
          where m.message_id = id
            and (d.state = 'dead' or m.to_agent_id is null and m.to_group is null
                 or coalesce(m.status, 'pending') in ('pending', 'delivered')
                    and d.inbox = postbell.inbox_of(m.to_agent_id, m.to_group)));
      exception when others or assert_failure then null;
      end;
    end loop;
  end;
  -- Held: by whoever changes it, who routes it then, or by a poller. The next look finds what is left.
  ids := array(select postbell.found_readable(
    'select m.message_id from postbell.messages m
     where (m.created_at between $1 and $2 or m.created_at is null and $1 = ''-infinity'')
       and m.message_id between $3 and $4
       and coalesce(m.status, ''pending'') = ''pending'' and (m.expires_at is null or m.expires_at > now())
       and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
       and not exists (select from postbell.set_aside s where s.message_id = m.message_id)
       and not exists (select from postbell.broadcasts b where b.message_id = m.message_id
                         and m.to_agent_id is null and m.to_group is null)
     for no key update skip locked', clock_timestamp() + interval '5 minutes'));
  made := postbell.route_again(ids);
  insert into postbell.looked (marks) values (found_marks)
  on conflict (only_row) do update set marks = excluded.marks, at = now();
  if made > 0 then
    perform pg_notify('postbell', '');
  end if;
  return made;
end
$$;

-- As in 0016, but a status that is put back counts as not written.
create or replace function postbell.write_outcome(id uuid, outcome text, error text) returns text
language plpgsql as $$
declare
  statement text;
  n bigint;
  code text; constr text; col text; tab text; context text; said text; why text;
begin
  for attempt in 1 .. 3 loop
    statement := case outcome
      when 'processed' then postbell.update_sql('agent_messages', '{status,processed_at,delivered_at}',
                                                array['$2', 'now()', 'coalesce(t.delivered_at, now())'], 't.message_id = $1')
      when 'failed' then postbell.update_sql('agent_messages', case when attempt < 3 and error is not null
                                                                    then '{status,error_message}' else '{status}' end::text[],
                                             array['$2', '$3'], 't.message_id = $1')
      when 'delivered' then postbell.update_sql('agent_messages', '{status,delivered_at}',
                                                array['$2', 'coalesce(t.delivered_at, now())'], 't.message_id = $1')
      else postbell.update_sql('agent_messages', '{status}', array['$2'], 't.message_id = $1')
    end;
    if statement is null then
      return null;
    end if;
    begin
      execute statement using id, outcome, case when attempt = 1 then error else left(error, 100) end;
      get diagnostics n = row_count;
      if n = 0 then
        return 'a trigger or a rule of agent_messages keeps the change out without an error: let it pass what sessions with the '
               'setting postbell.broker = on write';
      end if;
      -- Looked at afterwards and not by RETURNING, which a rule does not allow and which an AFTER trigger is later than. A status
      -- that the table computes is nobody's to write.
      perform from agent_messages t
      where t.message_id = id and outcome in ('processed', 'failed') and coalesce(t.status, 'pending') in ('pending', 'delivered')
        and exists (select from pg_attribute a where a.attrelid = 'agent_messages'::regclass and a.attname = 'status'
                      and a.attgenerated = '');
      return case when found then 'a trigger of agent_messages puts the status back: let it pass what sessions with the setting '
                                  'postbell.broker = on write' end;
    exception when others or assert_failure then
      get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name, tab = table_name,
                              context = pg_exception_context, said = message_text;
      why := coalesce(why, postbell.refusal('agent_messages', code, constr, col, context, said));
      if outcome <> 'failed' or error is null or code not in ('23514', '22001') then
        return why;
      end if;
    end;
  end loop;
  return why;
end
$$;
