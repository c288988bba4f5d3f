-- One row that can be written nowhere holds up no other: a part of our own tables may be hurt as well as a row of the user's (a
-- trigger of somebody's, a lost index, a lock), and each row has a subtransaction of its own for all that is done for it.

-- As in 0016, in a language whose errors name what raised them. A lock is waited for a moment only.
create or replace function postbell.put_aside(id uuid, delivery bigint, box text, what text, outcome text, error text, why text,
                                              wait interval) returns void
language plpgsql set lock_timeout = '50ms' as $$
begin
  insert into postbell.set_aside as s (message_id, delivery_id, inbox, kind, status, error_message, reason, next_try)
  values (id, delivery, box, what, outcome, error, why, clock_timestamp() + wait)
  on conflict (message_id, inbox) where message_id is not null do update
  set delivery_id = excluded.delivery_id, kind = excluded.kind, status = excluded.status,
      error_message = excluded.error_message, reason = excluded.reason, next_try = excluded.next_try, dropped_at = null;
end
$$;

-- Notes an agent whose row of the registry does not say what it should. False: that cannot be noted. The note is for an operator,
-- and presence does not depend on it.
create function postbell.put_presence(agent text, outcome text, why text) returns boolean
language plpgsql set lock_timeout = '50ms' as $$
begin
  insert into postbell.set_aside as s (inbox, kind, status, reason, next_try)
  values (agent, 'presence', outcome, why, clock_timestamp())
  on conflict (inbox) where kind = 'presence' do update
  set status = excluded.status, reason = excluded.reason, next_try = excluded.next_try, tries = s.tries + 1;
  return true;
exception when others or assert_failure then
  return false;
end
$$;
revoke all on function postbell.put_presence(text, text, text) from public;

-- As in 0019, but an outcome that can be written nowhere is the only one that is not: `hurt`, with why; nothing of it is changed.
-- `held` are now also those behind one that took all of the time.
create or replace function postbell.settle_each(kinds text[], ids bigint[], attempts smallint[], added smallint[],
                                                delays_ms bigint[], reasons text[], try_ms integer, untried text)
returns table (delivery_id bigint, became text, why text)
language plpgsql as $$
#variable_conflict use_column
declare
  until constant timestamptz := clock_timestamp() + try_ms * interval '1 millisecond';
  d record; m record; outcome text; error text; wait interval;
  -- The table that is at work, to be named where it fails.
  tab text; code text; constr text; col text; context text; said text;
  -- The time of the statement was over at a row: nothing more is tried. `is_locked`: set_aside is, so nobody waits for it again.
  is_over boolean := false; is_locked boolean := false;
begin
  -- A constraint that is deferred would fail at the commit, for all of them.
  set constraints all immediate;
  for i in 1 .. cardinality(ids) loop
    delivery_id := ids[i]; became := 'stale'; why := null;
    if is_over then
      became := 'held';
      return next;
      continue;
    end if;
    begin
      tab := 'postbell.deliveries';
      select w.message_id, w.inbox into d from postbell.deliveries w
      where w.delivery_id = ids[i] and w.attempt = attempts[i] and w.state <> 'dead'
        and (kinds[i] <> 'retry' or w.due_at is null);
      if found then
        -- The message first, as pollers do; nothing is ever waited for. Once the time is over nothing of the user's is run, be it a
        -- policy that is asked while the row is read.
        tab := 'agent_messages';
        if clock_timestamp() < until then
          select * into m from postbell.take_message(d.message_id);
        else
          select true as is_there, true as is_free, null::text as status, null::boolean as is_direct, untried as why into m;
        end if;
        tab := 'postbell.deliveries';
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
          tab := 'agent_messages';
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
            tab := 'postbell.set_aside';
            if is_locked then
              raise lock_not_available;
            end if;
            perform postbell.put_aside(d.message_id, ids[i], d.inbox, kinds[i], outcome, error, why, wait);
          end if;
        end if;
      end if;
    exception when others or assert_failure or query_canceled then
      get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name,
                              context = pg_exception_context, said = message_text;
      -- The user's row took all of the time: the caller sets all aside untried. Without the right on the deliveries no outcome can be
      -- written, so nothing is gained by writing them one by one.
      if tab = 'agent_messages'
         or tab = 'postbell.deliveries' and code = '42501' and not (has_table_privilege(tab, 'delete') and has_table_privilege(tab, 'update')) then
        raise;
      end if;
      became := 'hurt';
      -- Our own function is no trigger of theirs.
      why := case code
        when '57014' then format('the change of %s takes too long (SQLSTATE 57014): look for a slow trigger, or for a lock', tab)
        else postbell.refusal(tab, code, constr, col,
                              regexp_replace(context, '^PL/pgSQL function (postbell\.)?(put_aside|settle_each)\(.*', ''), said)
      end;
      is_over := code = '57014';
      is_locked := is_locked or tab = 'postbell.set_aside' and code = '55P03';
    end;
    return next;
  end loop;
end
$$;

-- As in 0019, but a message whose end can be written nowhere is left for the next time, and the others end.
create or replace function postbell.expire_each(at_most bigint, grace_ms bigint, out expired bigint)
language plpgsql as $$
declare id uuid; box text; why text; is_locked boolean := false; is_aside boolean;
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
    is_aside := false;
    begin
      delete from postbell.deliveries d where d.message_id = id and d.state <> 'dead';
      why := postbell.write_outcome(id, 'failed', 'expired before it was delivered');
      if why is not null then
        select coalesce(t.to_agent_id, 'group:' || t.to_group, '*') into box from agent_messages t where t.message_id = id;
        is_aside := true;
        if is_locked then
          raise lock_not_available;
        end if;
        perform postbell.put_aside(id, null, box, 'expired', 'failed', 'expired before it was delivered', why,
                                   interval '30 seconds');
      end if;
      expired := expired + 1;
    exception when others or assert_failure then
      -- Left for the next time.
      is_locked := is_locked or is_aside and sqlstate = '55P03';
    end;
  end loop;
end
$$;

-- As in 0019, but a row of set_aside that cannot be changed keeps no other from its turn.
create or replace function postbell.retry_aside(ids bigint[], at_most bigint, try_ms integer)
returns table (aside_id bigint, became text, why text)
language plpgsql as $$
#variable_conflict use_column
declare
  until constant timestamptz := clock_timestamp() + try_ms * interval '1 millisecond';
  a record; m record; refused text;
  code text; constr text; col text; context text; said text;
begin
  set constraints all immediate;
  for a in
    select * from postbell.set_aside s
    where s.message_id is not null and s.dropped_at is null
      and case when ids is null then s.next_try <= now() else s.aside_id = any (ids) end
    order by s.next_try limit at_most for update skip locked
  loop
    exit when clock_timestamp() >= until;
    begin
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
    exception when others or assert_failure then
      get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name,
                              context = pg_exception_context, said = message_text;
      became := 'refused';
      refused := postbell.refusal('postbell.set_aside', code, constr, col,
                                  regexp_replace(context, '^PL/pgSQL function (postbell\.)?retry_aside\(.*', ''), said);
    end;
    aside_id := a.aside_id; why := refused;
    return next;
  end loop;
end
$$;

-- As in 0016, but presence does not depend on the note that a row refuses it.
create or replace function postbell.presence_each(op text, brokers uuid[], agents text[], environments text[], capabilities text[],
                                       versions text[], reasons text[])
returns table (agent_id text, became text, why text)
language plpgsql as $$
#variable_conflict use_column
declare
  columns constant text[] :=
    '{last_heartbeat,updated_at,connected_to,status,offline_reason,environment,capabilities,agent_version}';
  here constant text :=
    'case when $1[1] = any (t.connected_to) then t.connected_to else array_append(t.connected_to, $1[1]) end';
  last constant text := 'cardinality(array_remove(t.connected_to, $1[1])) > 0';
  expressions text[]; statement text; n integer;
  code text; constr text; col text; context text; said text;
  -- Whether set_aside took the last note. Nobody waits for it again where it did not.
  is_noted boolean := true;
begin
  set constraints all immediate;
  expressions := case op
    when 'connected' then array['now()', 'now()', here, '''online''', 'null', 'coalesce($3, t.environment)',
                                'coalesce($4::jsonb, t.capabilities)', 'coalesce($5, t.agent_version)']
    when 'heartbeat' then array[
      'now()', 'now()', here,
      'case when t.status in (''offline'', ''starting'', ''stopping'') then ''online'' else t.status end',
      'case when t.status <> ''offline'' then t.offline_reason end']
    when 'disconnected' then array[
      'now()', 'now()', 'array_remove(t.connected_to, $1[1])',
      format('case when %s then t.status else ''offline'' end', last),
      format('case when %s then t.offline_reason else $6 end', last)]
    when 'silent' then array['t.last_heartbeat', 'now()', 'null', '''offline''', '''silent''']
    else array['t.last_heartbeat', 'now()', 'array(select b from unnest(t.connected_to) b where b <> all ($1))',
               'case when t.connected_to <@ $1 then ''offline'' else t.status end',
               'case when t.connected_to <@ $1 then ''broker_gone'' else t.offline_reason end']
  end;
  for i in 1 .. coalesce(cardinality(agents), 0) loop
    agent_id := agents[i]; became := null; why := null;
    perform from agent_registry r where r.agent_id = agents[i] for no key update skip locked;
    if not found then
      became := case when exists (select from agent_registry r where r.agent_id = agents[i]) then 'held' end;
    else
      for attempt in 1 .. 3 loop
        n := case attempt when 1 then cardinality(expressions) when 2 then 5 else 3 end;
        statement := postbell.update_sql('agent_registry', columns[1:n], expressions[1:n], 't.agent_id = $2');
        begin
          if statement is not null then
            execute statement using brokers, agents[i], environments[i], capabilities[i], versions[i], reasons[i];
          end if;
          became := case when why is not null then 'partly' end;
          exit;
        exception when others or assert_failure then
          get stacked diagnostics code = returned_sqlstate, constr = constraint_name, col = column_name,
                                  context = pg_exception_context, said = message_text;
          why := coalesce(why, postbell.refusal('agent_registry', code, constr, col, context, said));
          became := 'refused';
        end;
      end loop;
    end if;
    if why is not null then
      if is_noted then
        is_noted := postbell.put_presence(
          agents[i], case when op in ('connected', 'heartbeat') then 'online' else 'offline' end, why);
      end if;
    end if;
    if became is not null then
      return next;
    end if;
  end loop;
end
$$;
