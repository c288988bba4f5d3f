-- A message whose row cannot be read (a policy of row level security that raises for it, a damaged page) holds up no other
-- message: each row is read in a subtransaction of its own, wherever a statement for many of them failed.

-- Reads a message's row and takes its lock, if that is free: nothing is waited for. Says whether the row is there, whether this
-- transaction has it now, its status, and whether the message is for one recipient. `why`: the row cannot be read; then the
-- rest is what can be known without it.
create function postbell.take_message(id uuid, out is_there boolean, out is_free boolean, out status text,
                                      out is_direct boolean, out why text)
language plpgsql as $$
#variable_conflict use_column
declare code text; constr text; col text; context text; said text;
begin
  select t.status, coalesce(t.to_agent_id, t.to_group) is not null into status, is_direct
  from agent_messages t where t.message_id = id for no key update skip locked;
  is_free := found;
  is_there := found;
  if not found then
    select t.status, coalesce(t.to_agent_id, t.to_group) is not null into status, is_direct
    from agent_messages t where t.message_id = id;
    is_there := found;
  end if;
exception when others or assert_failure then
  get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name,
                          context = pg_exception_context, said = message_text;
  why := 'its row cannot be read: ' || postbell.refusal('agent_messages', code, constr, col, context, said);
  is_there := true;
  is_free := true;
  status := null;
  is_direct := null;
end
$$;

-- Whether a message's row can be read; true also where there is none. For statements that show many messages.
create function postbell.is_readable(id uuid) returns boolean
language plpgsql stable as $$
begin
  perform length(concat(t.from_agent_id, t.to_agent_id, t.message_type, t.topic, t.to_group, t.to_environment, t.status,
                        t.error_message))
  from agent_messages t where t.message_id = id;
  return true;
exception when others or assert_failure then
  return false;
end
$$;

-- The ids that `query` finds, without those at which it fails: these are searched for by halves of the time, and within one
-- instant by the digits of the id. The query takes four parameters: from this time to that (-infinity and infinity at the
-- ends), from this id to that. The search ends at `until` with what it has found. The piece that is searched first is drawn, so
-- that rows behind many that cannot be read have their turn another time.
create function postbell.found_readable(query text, until timestamptz, from_us bigint default 0,
                                        to_us bigint default 253402300799999999, digits text default '')
returns setof uuid
language plpgsql as $$
declare
  ids uuid[];
  middle constant bigint := from_us + (to_us - from_us) / 2;
  drawn constant integer := floor(random() * 16);
begin
  if clock_timestamp() >= until then
    return;
  end if;
  begin
    execute format('select array(%s)', query) into ids
    using case when from_us = 0 then '-infinity' else 'epoch'::timestamptz + from_us * interval '1 microsecond' end,
          case when to_us = 253402300799999999 then 'infinity' else 'epoch'::timestamptz + to_us * interval '1 microsecond' end,
          rpad(digits, 32, '0')::uuid, rpad(digits, 32, 'f')::uuid;
    return query select unnest(ids);
    return;
  exception when others or assert_failure then
    -- One of them cannot be read, or more: in smaller pieces.
  end;
  if from_us = 0 and to_us = 253402300799999999 then
    -- Fails where the query does without any row: that is no row's fault.
    execute format('select array(%s)', query) using 'infinity'::timestamptz, '-infinity'::timestamptz,
            rpad('', 32, 'f')::uuid, rpad('', 32, '0')::uuid;
  end if;
  if from_us < to_us then
    if drawn % 2 = 0 then
      return query select postbell.found_readable(query, until, from_us, middle, digits);
    end if;
    return query select postbell.found_readable(query, until, middle + 1, to_us, digits);
    if drawn % 2 = 1 then
      return query select postbell.found_readable(query, until, from_us, middle, digits);
    end if;
  elsif length(digits) < 32 then
    for digit in drawn .. drawn + 15 loop
      return query select postbell.found_readable(query, until, from_us, to_us, digits || to_hex(digit % 16));
    end loop;
  end if;
end
$$;

-- Outcomes one by one, where a statement for all was refused. Each delivery's own change is made, whatever the message's row
-- says. Arrays have an element an outcome: its kind (ack, retry, dead, expired), delivery, attempt, attempts to add, delay
-- and reason. For `try_ms` the messages' rows are tried; what is left then is set aside untried, so that slow triggers and
-- locks of the user's hold up nobody; `untried` says why. A row for each: written, aside, held (another transaction holds
-- the delivery: nothing is changed) or stale (settled before).
create or replace function postbell.settle_each(kinds text[], ids bigint[], attempts smallint[], added smallint[], delays_ms bigint[],
                                     reasons text[], try_ms integer, untried text)
returns table (delivery_id bigint, became text, why text)
language plpgsql as $$
#variable_conflict use_column
declare
  until constant timestamptz := clock_timestamp() + try_ms * interval '1 millisecond';
  d record; m record; outcome text; error text; wait interval;
begin
  -- A constraint that is deferred would fail at the commit, for all of them.
  set constraints all immediate;
  for i in 1 .. cardinality(ids) loop
    delivery_id := ids[i]; became := 'stale'; why := null;
    select w.message_id, w.inbox into d from postbell.deliveries w
    where w.delivery_id = ids[i] and w.attempt = attempts[i] and w.state <> 'dead'
      and (kinds[i] <> 'retry' or w.due_at is null);
    if found then
      -- The message first, as pollers do; nothing is ever waited for. Once the time is over nothing of the user's is run, be it a
      -- policy that is asked while the row is read.
      if clock_timestamp() < until then
        select * into m from postbell.take_message(d.message_id);
      else
        select true as is_there, true as is_free, null::text as status, null::boolean as is_direct, untried as why into m;
      end if;
      perform from postbell.deliveries w
      where w.delivery_id = ids[i] and w.attempt = attempts[i] and w.state <> 'dead' for update skip locked;
      became := case when found then 'written' else 'held' end;
    end if;
    if became = 'written' then
      case kinds[i]
        when 'retry' then
          update postbell.deliveries w
          set attempt = w.attempt + added[i], last_error = coalesce(reasons[i], w.last_error), txid = pg_current_xact_id(),
              state = case when delays_ms[i] > 0 then 'scheduled' else 'ready' end::postbell.delivery_state,
              due_at = case when delays_ms[i] > 0 then now() + delays_ms[i] * interval '1 millisecond' end
          where w.delivery_id = ids[i];
        when 'dead' then
          update postbell.deliveries w
          set state = 'dead', dead_at = now(), due_at = null, attempt = w.attempt + added[i], last_error = reasons[i]
          where w.delivery_id = ids[i];
        else
          delete from postbell.deliveries w where w.delivery_id = ids[i];
      end case;
      error := case kinds[i] when 'dead' then reasons[i] when 'expired' then 'expired before it was delivered' end;
      if m.is_direct is null and m.is_there then
        -- The row was not read. A message that nobody else has is as one for one recipient.
        m.is_direct := not exists (select from postbell.deliveries o where o.message_id = d.message_id
                                     and o.delivery_id <> ids[i]);
      end if;
      outcome := case
        when not m.is_there then null
        when kinds[i] = 'ack' and (m.is_direct or not exists (select from postbell.deliveries o
                                                              where o.message_id = d.message_id)) then 'processed'
        when kinds[i] in ('dead', 'expired') and m.is_direct then 'failed'
        when kinds[i] = 'retry' and m.is_direct and (m.status = 'delivered' or m.why is not null) then 'pending' end;
      if outcome is not null then
        wait := interval '1 second';
        if m.why is not null then
          why := m.why;
        elsif not m.is_free then
          why := 'another transaction holds the message''s row';
        elsif clock_timestamp() >= until then
          why := untried;
        else
          why := postbell.write_outcome(d.message_id, outcome, error);
        end if;
        if m.is_free and why is distinct from untried then
          wait := interval '30 seconds';
        end if;
        if why is not null then
          became := 'aside';
          perform postbell.put_aside(d.message_id, ids[i], d.inbox, kinds[i], outcome, error, why, wait);
        end if;
      end if;
    end if;
    return next;
  end loop;
end
$$;

-- Tries to write what was set aside: these, or (null) what is due, at most so many, and for at most `try_ms`. Returns for
-- each: written, gone (somebody else ended the message, or made it wait again), held or refused.
create or replace function postbell.retry_aside(ids bigint[], at_most bigint, try_ms integer)
returns table (aside_id bigint, became text, why text)
language plpgsql as $$
#variable_conflict use_column
declare
  until constant timestamptz := clock_timestamp() + try_ms * interval '1 millisecond';
  a record; m record; refused text;
begin
  set constraints all immediate;
  for a in
    select * from postbell.set_aside s
    where s.message_id is not null and s.dropped_at is null
      and case when ids is null then s.next_try <= now() else s.aside_id = any (ids) end
    order by s.next_try limit at_most for update skip locked
  loop
    exit when clock_timestamp() >= until;
    select * into m from postbell.take_message(a.message_id);
    refused := null;
    if m.why is not null then
      became := 'refused'; refused := m.why;
    elsif not m.is_there or (case a.kind
         when 'retry' then m.status is distinct from 'delivered'
         when 'dead' then exists (select from postbell.deliveries d
                                  where d.delivery_id = a.delivery_id and d.state <> 'dead')
         else coalesce(m.status, 'pending') not in ('pending', 'delivered') end)
    then
      became := 'gone';
    elsif not m.is_free then
      became := 'held'; refused := 'another transaction holds the message''s row';
    else
      refused := postbell.write_outcome(a.message_id, a.status, a.error_message);
      became := case when refused is null then 'written' else 'refused' end;
    end if;
    if refused is null then
      delete from postbell.set_aside s where s.aside_id = a.aside_id;
    else
      -- A row that is only held is tried again after a second, one that is refused after an hour at last.
      update postbell.set_aside s
      set reason = refused, tries = s.tries + (became = 'refused')::integer,
          next_try = clock_timestamp() + case when became = 'held' then interval '1 second'
                                              else least(interval '30 seconds' * 2 ^ least(s.tries, 7), interval '1 hour') end
      where s.aside_id = a.aside_id;
    end if;
    aside_id := a.aside_id; why := refused;
    return next;
  end loop;
end
$$;

-- Messages that are longer with an agent, one by one; says of how many the row takes it not, and why the last one does not.
create or replace function postbell.mark_each(ids uuid[], out refused bigint, out why text)
language plpgsql as $$
declare m record; said text; id uuid;
begin
  set constraints all immediate;
  refused := 0;
  foreach id in array ids loop
    select * into m from postbell.take_message(id);
    said := m.why;
    if said is null and m.is_free and coalesce(m.status, 'pending') = 'pending' then
      said := postbell.write_outcome(id, 'delivered', null);
    end if;
    if said is not null then
      refused := refused + 1; why := said;
    end if;
  end loop;
end
$$;

-- Messages that expired while nobody was there to take them, one by one: see sql/queries/reap_expired.sql.
create or replace function postbell.expire_each(at_most bigint, grace_ms bigint, out expired bigint)
language plpgsql as $$
declare id uuid; box text; why text;
begin
  set constraints all immediate;
  expired := 0;
  for id in
    select f from postbell.found_readable(format(
      'select m.message_id from agent_messages m
       where m.expires_at between $1 and $2 and m.message_id between $3 and $4
         and m.expires_at < now() - %s * interval ''1 millisecond'' and coalesce(m.status, ''pending'') = ''pending''
         and not exists (select from postbell.set_aside s where s.message_id = m.message_id)
       limit %s for no key update skip locked', grace_ms, at_most), clock_timestamp() + interval '2 seconds') f
    limit at_most
  loop
    delete from postbell.deliveries d where d.message_id = id and d.state <> 'dead';
    why := postbell.write_outcome(id, 'failed', 'expired before it was delivered');
    if why is not null then
      select coalesce(t.to_agent_id, 'group:' || t.to_group, '*') into box from agent_messages t where t.message_id = id;
      perform postbell.put_aside(id, null, box, 'expired', 'failed', 'expired before it was delivered', why,
                                 interval '30 seconds');
    end if;
    expired := expired + 1;
  end loop;
end
$$;

-- Messages that ended long ago, one by one: see sql/queries/reap_processed.sql. A message that something of the user's keeps
-- (a row that refers to it, a trigger) stays.
create or replace function postbell.remove_each(older_s bigint, at_most bigint, out removed bigint)
language plpgsql as $$
declare
  until constant timestamptz := clock_timestamp() + interval '2 seconds';
  id uuid;
begin
  set constraints all immediate;
  removed := 0;
  for id in
    select f from postbell.found_readable(format(
      'select m.message_id from agent_messages m
       where m.created_at between $1 and $2 and m.message_id between $3 and $4
         and m.created_at < now() - %s * interval ''1 second'' and m.status in (''processed'', ''failed'')
         and coalesce(m.processed_at, m.created_at) < now() - %1$s * interval ''1 second''
         and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
       order by m.created_at for update skip locked', older_s), until) f
  loop
    exit when removed >= at_most or clock_timestamp() >= until;
    begin
      delete from agent_messages t where t.message_id = id;
      removed := removed + 1;
    exception when others or assert_failure then null;
    end;
  end loop;
end
$$;

-- Does the same as postbell.sweep() row by row, after that failed. A row that cannot be read is noted once more, behind all others.
create function postbell.sweep_each(at_most integer, out took bigint, out ready bigint, out look boolean)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  one record;
  marks text := postbell.trigger_marks();
begin
  -- Fails where a part of the schema is missing: that is no message's fault.
  perform postbell.follow(null, false, false), postbell.route_again('{}');
  took := 0;
  ready := 0;
  -- While somebody keeps the trigger off, every look is needed.
  look := marks is distinct from (select l.marks from postbell.looked l)
          or marks ~ '/D( |$)' or marks !~ '\mpostbell_route/' or marks is null;
  for one in
    select u.message_id, bool_or(u.moved) as moved, bool_or(u.set_back) as set_back, array_agg(u.noted_id) as notes
    from (select n.noted_id, n.message_id, n.moved, n.set_back from postbell.unseen n
          order by n.noted_id limit at_most for update skip locked) u
    group by u.message_id
    order by min(u.noted_id)
  loop
    begin
      perform from postbell.messages m where m.message_id = one.message_id for no key update skip locked;
      if not found and exists (select from postbell.messages m where m.message_id = one.message_id) then
        continue;
      end if;
      ready := ready + postbell.follow(one.message_id, one.moved, one.set_back);
    exception when others or assert_failure then
      update postbell.unseen n set noted_id = default where n.noted_id = any (one.notes);
      continue;
    end;
    delete from postbell.unseen n where n.noted_id = any (one.notes);
    took := took + cardinality(one.notes);
  end loop;
  if ready > 0 then
    perform pg_notify('postbell', '');
  end if;
end
$$;

-- Looks at all messages, after somebody touched the triggers: makes the deliveries that are missing and removes those that
-- are not wanted any more. One broker does it at a time; null: another one is at it. Reads both tables whole.
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
    delete from postbell.deliveries d where not exists (select from postbell.messages m where m.message_id = d.message_id);
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

do $$
declare f regprocedure;
begin
  for f in select p.oid::regprocedure from pg_proc p
           where p.pronamespace = 'postbell'::regnamespace
             and p.proname in ('take_message', 'is_readable', 'found_readable', 'sweep_each') loop
    execute format('revoke all on function %s from public', f);
  end loop;
end $$;
