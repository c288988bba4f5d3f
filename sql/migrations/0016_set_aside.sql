-- What the user's tables do not take is set aside: the broker's own change is made, and what could not be written waits here
-- with the reason, until it can be, or an operator drops it. The functions write row by row, each in a subtransaction of its
-- own, where a statement for all was refused (src/postgres/settle.rs, presence.rs, reap.rs). They run with the rights and
-- the search_path of who calls them, which is the broker alone, and leave generated columns out.
create table postbell.set_aside (
  aside_id      bigint generated always as identity primary key,
  -- Null for what is of no message: presence.
  message_id    uuid,
  delivery_id   bigint,
  -- The inbox, or the agent whose presence it is.
  inbox         text not null,
  -- ack, retry, dead, expired, presence
  kind          text not null,
  -- What was to be written.
  status        text not null,
  error_message text,
  -- Why it is not: constraint, trigger or column, and what to do; never what is in the row.
  reason        text not null,
  since         timestamptz not null default now(),
  tries         integer not null default 1,
  next_try      timestamptz not null,
  -- By an operator: tried no more. The row stays for as long as the message: it says that its delivery is over.
  dropped_at    timestamptz
);
-- Also for whoever looks for messages that wait without a delivery: those that are here do not.
create unique index set_aside_message on postbell.set_aside (message_id, inbox) where message_id is not null;
create unique index set_aside_presence on postbell.set_aside (inbox) where kind = 'presence';
create index set_aside_due on postbell.set_aside (next_try) where dropped_at is null and message_id is not null;
revoke all on postbell.set_aside from public;

-- A sentence for an operator: which constraint, trigger or column it is, and what to do. Of the message alone what cannot
-- hold a row's content is taken: what a trigger raises may say anything.
create function postbell.refusal(tab text, code text, constr text, col text, context text, said text) returns text
language plpgsql as $$
declare
  fn text := substring(context from '^(?:PL/[a-zA-Z]+|SQL) function "?(?:[^".(]+"?\."?)?([^"(.\s]+)');
  trig text;
begin
  if fn is not null then
    select string_agg(t.tgname, ', ' order by t.tgname) into trig
    from pg_trigger t join pg_proc p on p.oid = t.tgfoid
    where t.tgrelid = to_regclass(tab) and not t.tgisinternal and p.proname = fn;
    return case when trig is null then format('the function %s, which a trigger of %s calls,', fn, tab)
                else format('the trigger %s of %s (function %s)', trig, tab, fn) end
      || format(' refuses the change (SQLSTATE %s%s): let it pass what sessions with the setting postbell.broker = on write',
                code, case when constr <> '' then ', constraint ' || constr else '' end);
  end if;
  return case
    when code = '23514' then format('the constraint %s of %s does not allow it: let it allow the words and texts that Postbell '
                                    'writes', constr, tab)
    when left(code, 2) = '23' then format('the constraint %s of %s is violated (SQLSTATE %s): drop it, or let it allow what '
                                          'Postbell writes', coalesce(nullif(constr, ''), 'not null of ' || col), tab, code)
    when code = '428C9' then format('the column %s of %s is generated and cannot be written', substring(said from '"([^"]+)"'), tab)
    when code in ('42501') then format('the broker''s role may not write %s: grant it the right, or connect as the owner', tab)
    when code = '22001' then format('a text is too long for a column of %s: make the column longer', tab)
    when code = '55P03' then format('another transaction holds what %s needs for it', tab)
    else format('%s does not take it (SQLSTATE %s%s)', tab, code, case when constr <> '' then ', constraint ' || constr else '' end)
  end;
end
$$;

-- The update of a table of the user's that writes these columns, with $1, $2, … as they are in the expressions: without the
-- columns that are generated or missing, and with texts (but the status, which is a word) cut to what a column holds. Null:
-- none is left.
create function postbell.update_sql(tab text, columns text[], expressions text[], key text) returns text
language sql stable as $$
  select format('update %s t set %s where %s', tab,
                string_agg(format('%I = %s', a.attname,
                                  case when a.atttypmod > 4 and a.attname <> 'status' and a.atttypid in ('varchar'::regtype, 'bpchar'::regtype)
                                       then format('left(%s, %s)', w.expression, a.atttypmod - 4) else w.expression end),
                           ', ' order by w.n), key)
  from unnest(columns, expressions) with ordinality as w (name, expression, n)
  join pg_attribute a on a.attrelid = to_regclass(tab) and a.attname = w.name and a.attnum > 0 and not a.attisdropped
                     and a.attgenerated = ''
  having count(*) > 0
$$;

-- Writes what became of a message. Null: it is written; otherwise why not, and nothing is changed. A text that a constraint
-- does not take is shortened, then left out: the outcome is worth more, and a dead letter keeps its reason.
create function postbell.write_outcome(id uuid, outcome text, error text) returns text
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
      return case when n = 0 then 'a trigger or a rule of agent_messages keeps the change out without an error: let it pass what '
                                  'sessions with the setting postbell.broker = on write' end;
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

-- Puts what could not be written where an operator sees it. What is held by another transaction is tried again soon.
create function postbell.put_aside(id uuid, delivery bigint, box text, what text, outcome text, error text, why text,
                                   wait interval) returns void
language sql as $$
  insert into postbell.set_aside as s (message_id, delivery_id, inbox, kind, status, error_message, reason, next_try)
  values (id, delivery, box, what, outcome, error, why, clock_timestamp() + wait)
  on conflict (message_id, inbox) where message_id is not null do update
  set delivery_id = excluded.delivery_id, kind = excluded.kind, status = excluded.status,
      error_message = excluded.error_message, reason = excluded.reason, next_try = excluded.next_try, dropped_at = null
$$;

-- Outcomes one by one, where a statement for all was refused. Each delivery's own change is made, whatever the message's row
-- says. Arrays have an element an outcome: its kind (ack, retry, dead, expired), delivery, attempt, attempts to add, delay
-- and reason. For `try_ms` the messages' rows are tried; what is left then is set aside untried, so that slow triggers and
-- locks of the user's hold up nobody; `untried` says why. A row for each: written, aside, held (another transaction holds
-- the delivery: nothing is changed) or stale (settled before).
create function postbell.settle_each(kinds text[], ids bigint[], attempts smallint[], added smallint[], delays_ms bigint[],
                                     reasons text[], try_ms integer, untried text)
returns table (delivery_id bigint, became text, why text)
language plpgsql as $$
#variable_conflict use_column
declare
  until constant timestamptz := clock_timestamp() + try_ms * interval '1 millisecond';
  d record; m record; is_free boolean; outcome text; error text; wait interval;
begin
  -- A constraint that is deferred would fail at the commit, for all of them.
  set constraints all immediate;
  for i in 1 .. cardinality(ids) loop
    delivery_id := ids[i]; became := 'stale'; why := null;
    select w.message_id, w.inbox into d from postbell.deliveries w
    where w.delivery_id = ids[i] and w.attempt = attempts[i] and w.state <> 'dead'
      and (kinds[i] <> 'retry' or w.due_at is null);
    if found then
      -- The message first, as pollers do; nothing is ever waited for.
      select t.status, coalesce(t.to_agent_id, t.to_group) is not null as is_direct into m
      from agent_messages t where t.message_id = d.message_id for no key update skip locked;
      is_free := found;
      if not is_free then
        select t.status, coalesce(t.to_agent_id, t.to_group) is not null as is_direct into m
        from agent_messages t where t.message_id = d.message_id;
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
      outcome := case
        when m is null then null
        when kinds[i] = 'ack' and (m.is_direct or not exists (select from postbell.deliveries o
                                                              where o.message_id = d.message_id)) then 'processed'
        when kinds[i] in ('dead', 'expired') and m.is_direct then 'failed'
        when kinds[i] = 'retry' and m.is_direct and m.status = 'delivered' then 'pending' end;
      if outcome is not null then
        wait := interval '1 second';
        if not is_free then
          why := 'another transaction holds the message''s row';
        elsif clock_timestamp() >= until then
          why := untried;
        else
          why := postbell.write_outcome(d.message_id, outcome, error);
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

-- Tries to write what was set aside: these, or (null) what is due, at most so many, and for at most `try_ms`. What became
-- of each: written, gone (somebody else ended the message, or made it wait again), held or refused.
create function postbell.retry_aside(ids bigint[], at_most bigint, try_ms integer)
returns table (aside_id bigint, became text, why text)
language plpgsql as $$
#variable_conflict use_column
declare
  until constant timestamptz := clock_timestamp() + try_ms * interval '1 millisecond';
  a record; m record; is_free boolean; is_there boolean; refused text;
begin
  set constraints all immediate;
  for a in
    select * from postbell.set_aside s
    where s.message_id is not null and s.dropped_at is null
      and case when ids is null then s.next_try <= now() else s.aside_id = any (ids) end
    order by s.next_try limit at_most for update skip locked
  loop
    exit when clock_timestamp() >= until;
    select t.status into m from agent_messages t where t.message_id = a.message_id for no key update skip locked;
    is_free := found;
    is_there := is_free;
    if not is_free then
      select t.status into m from agent_messages t where t.message_id = a.message_id;
      is_there := found;
    end if;
    refused := null;
    if not is_there or (case a.kind
         when 'retry' then m.status is distinct from 'delivered'
         when 'dead' then exists (select from postbell.deliveries d
                                  where d.delivery_id = a.delivery_id and d.state <> 'dead')
         else coalesce(m.status, 'pending') not in ('pending', 'delivered') end)
    then
      became := 'gone';
    elsif not is_free then
      became := 'held'; refused := 'another transaction holds the message''s row';
    else
      refused := postbell.write_outcome(a.message_id, a.status, a.error_message);
      became := case when refused is null then 'written' else 'refused' end;
    end if;
    if refused is null then
      delete from postbell.set_aside s where s.aside_id = a.aside_id;
    else
      -- What is only held waits for a second; what is refused for an hour at last.
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
create function postbell.mark_each(ids uuid[], out refused bigint, out why text)
language plpgsql as $$
declare said text; id uuid;
begin
  set constraints all immediate;
  refused := 0;
  foreach id in array ids loop
    perform from agent_messages t
    where t.message_id = id and coalesce(t.status, 'pending') = 'pending' for no key update skip locked;
    if found then
      said := postbell.write_outcome(id, 'delivered', null);
      if said is not null then
        refused := refused + 1; why := said;
      end if;
    end if;
  end loop;
end
$$;

-- Messages that expired while nobody was there to take them, one by one: see sql/queries/reap_expired.sql.
create function postbell.expire_each(at_most bigint, grace_ms bigint, out expired bigint)
language plpgsql as $$
declare m record; why text;
begin
  set constraints all immediate;
  expired := 0;
  for m in
    select t.message_id, coalesce(t.to_agent_id, 'group:' || t.to_group, '*') as inbox from agent_messages t
    where t.expires_at is not null and t.expires_at < now() - grace_ms * interval '1 millisecond'
      and coalesce(t.status, 'pending') = 'pending'
      and not exists (select from postbell.set_aside s where s.message_id = t.message_id)
    limit at_most for no key update skip locked
  loop
    delete from postbell.deliveries d where d.message_id = m.message_id and d.state <> 'dead';
    why := postbell.write_outcome(m.message_id, 'failed', 'expired before it was delivered');
    if why is not null then
      perform postbell.put_aside(m.message_id, null, m.inbox, 'expired', 'failed', 'expired before it was delivered', why,
                                 interval '30 seconds');
    end if;
    expired := expired + 1;
  end loop;
end
$$;

-- Messages that ended long ago, one by one: see sql/queries/reap_processed.sql. What something of the user's keeps (a row that
-- refers to it, a trigger) stays.
create function postbell.remove_each(older_s bigint, at_most bigint, out removed bigint)
language plpgsql as $$
declare
  until constant timestamptz := clock_timestamp() + interval '500 milliseconds';
  m record;
begin
  set constraints all immediate;
  removed := 0;
  for m in
    select t.message_id from agent_messages t
    where t.created_at < now() - older_s * interval '1 second' and t.status in ('processed', 'failed')
      and coalesce(t.processed_at, t.created_at) < now() - older_s * interval '1 second'
      and not exists (select from postbell.deliveries d where d.message_id = t.message_id)
    order by t.created_at for update skip locked
  loop
    exit when removed >= at_most or clock_timestamp() >= until;
    begin
      delete from agent_messages t where t.message_id = m.message_id;
      removed := removed + 1;
    exception when others or assert_failure then null;
    end;
  end loop;
end
$$;

-- Presence, agent by agent, where a statement for all was refused: `op` is connected, heartbeat, disconnected, silent or gone,
-- as the statements of these names do it. `brokers`: this one; of gone those that are. Further arrays as in the statements.
-- What of it a row does not take is left out: first what the hello said, then the status. A row for each that is not as it
-- should be: held (another transaction holds the row), partly or refused, and why; the last two are in set_aside meanwhile.
create function postbell.presence_each(op text, brokers uuid[], agents text[], environments text[], capabilities text[],
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
      insert into postbell.set_aside as s (inbox, kind, status, reason, next_try)
      values (agents[i], 'presence', case when op in ('connected', 'heartbeat') then 'online' else 'offline' end, why,
              clock_timestamp())
      on conflict (inbox) where kind = 'presence' do update
      set status = excluded.status, reason = excluded.reason, next_try = excluded.next_try, tries = s.tries + 1;
    end if;
    if became is not null then
      return next;
    end if;
  end loop;
end
$$;

-- An agent with a token: registered, or given this one where it has none; no row: it has one. What else is registered stays as it
-- is, and is not written again: a table that does not take its own rows any more still gives them tokens.
create function postbell.add_agent(id text, called text, kind text, place text, rank text, hash bytea)
returns table (is_new boolean, enabled boolean, environment text, role text)
language plpgsql as $$
#variable_conflict use_column
begin
  update agent_registry r set token_hash = hash, token_set_at = now() where r.agent_id = id and r.token_hash is null;
  is_new := not found;
  if is_new then
    if exists (select from agent_registry r where r.agent_id = id) then
      if exists (select from agent_registry r where r.agent_id = id and r.token_hash is null) then
        raise exception 'agent_registry keeps the token out without an error: look for a trigger or a rule on it';
      end if;
      return;
    end if;
    execute (
      select format('insert into agent_registry (%s) values (%s) on conflict do nothing',
                    string_agg(quote_ident(a.attname), ', ' order by w.n), string_agg(w.expression, ', ' order by w.n))
      from unnest('{agent_id,agent_name,agent_type,environment,status,role,token_hash,token_set_at}'::text[],
                  array['$1', 'coalesce($2, $1)', 'coalesce($3, $5, ''agent'')', 'coalesce($4, ''pc'')', '''offline''',
                        'coalesce($5, ''agent'')', '$6', 'now()']) with ordinality as w (name, expression, n)
      join pg_attribute a on a.attrelid = to_regclass('agent_registry') and a.attname = w.name and a.attnum > 0
                         and not a.attisdropped and a.attgenerated = ''
    ) using id, called, kind, place, rank, hash;
  end if;
  perform postbell.touch_agent(id);
  return query select is_new, coalesce(r.enabled, true), coalesce(r.environment, 'unknown')::text,
                      coalesce(r.role, 'agent')::text
               from agent_registry r where r.agent_id = id and r.token_hash = hash;
end
$$;

-- The time of an agent's last change, where the registry lets it be written.
create function postbell.touch_agent(id text) returns void
language plpgsql as $$
declare statement constant text := postbell.update_sql('agent_registry', '{updated_at}', '{now()}', 't.agent_id = $1');
begin
  if statement is not null then
    execute statement using id;
  end if;
end
$$;

do $$
declare f regprocedure;
begin
  for f in select p.oid::regprocedure from pg_proc p
           where p.pronamespace = 'postbell'::regnamespace
             and p.proname in ('refusal', 'update_sql', 'write_outcome', 'put_aside', 'settle_each', 'retry_aside', 'mark_each',
                               'expire_each', 'remove_each', 'presence_each',
                               'add_agent', 'touch_agent') loop
    execute format('revoke all on function %s from public', f);
  end loop;
end $$;
