-- Tries everything that a broker does to the user's tables as they are, in the transaction that is open and that its caller
-- rolls back. Each step is a subtransaction, so that one fault does not hide the next. The setting postbell.rehearsal has the
-- steps and the texts of the broker's own statements (rehearsal_given.sql); postbell.rehearsed gets the findings
-- (rehearsal_found.sql). One statement, so that tables which a step has locked are not held for a round trip each.
-- Called by src/store/rehearsal.rs, whose steps.rs says which steps there are. Uses the indexes that those statements use.
do $rehearsal$
-- The user's tables may have columns of these names; their own are all written with their table.
#variable_conflict use_variable
declare
  given constant jsonb := current_setting('postbell.rehearsal')::jsonb;
  statements constant jsonb := given -> 'statements';
  hash constant bytea := decode(repeat('00', 32), 'hex');
  broker constant uuid := gen_random_uuid();
  step jsonb;
  act text;
  send jsonb;
  way text;
  faults jsonb := '[]';
  reached jsonb := '{}';
  deliveries bigint;
  unreached jsonb := '{}';
  is_long boolean;
  longest bigint;
  -- Names of this rehearsal's own, so that two at once do not wait for each other; letters alone, and few.
  own_name constant text := 'postbell-' || translate(left(md5(gen_random_uuid()::text), 6), '0123456789', 'ghijklmnop');
  -- The rehearsal's agents, and the words of their messages; others where the tables do not take these.
  sender text := own_name || '-a';
  recipient text := own_name || '-b';
  kind text := 'data';
  body jsonb := '{}';
  agent_type text;
  environment text;
  message uuid;
  delivery bigint;
  found_row record;
  told record;
  filled text;
  theirs constant jsonb := (
    select jsonb_object_agg(name, current_setting(name))
    from unnest(array['plpgsql.extra_errors', 'plpgsql.extra_warnings', 'default_table_access_method']) s (name));
  -- The facts about what went wrong.
  state text; said text; detail text; context text; of_schema text; of_table text; of_column text; of_constraint text; hint text;
begin
  -- Checks that a table defers to the commit are made at once: the broker commits after each statement.
  set constraints all immediate;
  for step in select s.e from jsonb_array_elements(given -> 'steps') with ordinality as s (e, n) order by s.n loop
    continue when reached ? coalesce(step ->> 'goal', '')
               or not reached ?& array(select n from jsonb_array_elements_text(coalesce(step -> 'needs', '[]')) n);
    begin
      for act in select a from jsonb_array_elements_text(step -> 'acts') as a loop
        case act
          when 'apply' then
            -- As a migration does (BEGIN of src/store/migrate.rs); the life of a message has the user's settings again.
            perform set_config(name, value, true) from unnest(
              array['plpgsql.extra_errors', 'plpgsql.extra_warnings', 'default_table_access_method'],
              array['none', 'none', 'heap']) s (name, value);
            execute step ->> 'sql';
            perform set_config(name, value, true) from jsonb_each_text(theirs) s (name, value);
          when 'unique' then
            -- The index itself is built later, while others write. A column that the migration adds first is empty everywhere.
            begin
              execute format('select exists (select from %s where %s group by %s having count(*) > 1)',
                             step ->> 'of', step ->> 'condition', step ->> 'columns') into is_long;
            exception when undefined_column then
              is_long := false;
            end;
            if is_long then
              raise exception using errcode = '23505', schema = current_schema(), table = step ->> 'of',
                constraint = step ->> 'index', detail = format('Key (%s)=() is there twice.', step ->> 'columns'),
                message = 'rows have the same key';
            end if;
          when 'adopt' then
            -- Many are only counted, since others wait for the tables meanwhile; by the same statement without its INSERT, so
            -- that as many are counted as will be written.
            select count(*) > (given ->> 'adopted_max')::bigint into is_long
            from (select from agent_messages m where coalesce(m.status, 'pending') = 'pending'
                  limit (given ->> 'adopted_max')::bigint + 1) few;
            if not is_long then
              execute statements ->> 'adopt_waiting';
              get diagnostics deliveries = row_count;
              select jsonb_build_object(
                'topic', count(*) filter (where m.topic is not null),
                'to_environment', count(*) filter (where m.topic is null and m.to_environment is not null),
                'all', count(*) filter (where m.topic is null and m.to_environment is null)) into unreached
              from agent_messages m
              where coalesce(m.status, 'pending') = 'pending' and coalesce(m.to_agent_id, m.to_group) is null
                and (m.expires_at is null or m.expires_at > now())
                and not exists (select from postbell.deliveries d where d.message_id = m.message_id);
            else
              execute 'select count(*), max(octet_length(w.inbox)) from ('
                      || regexp_replace(statements ->> 'adopt_waiting', '^.*?insert into [^)]*\)', '') || ') w'
              into deliveries, longest;
              if longest > (given ->> 'inbox_bytes_max')::bigint then
                raise exception using errcode = 'PB001', column = 'to_agent_id',
                  message = 'a message waits whose to_agent_id is too long for an inbox';
              end if;
            end if;

          -- The registry.
          when 'words' then
            select r.agent_type, r.environment into agent_type, environment from agent_registry r limit 1;
          when 'register' then
            execute statements ->> 'agent_add' using sender, null::text, agent_type, environment, null::text, hash;
            execute statements ->> 'agent_add' using recipient, null::text, agent_type, environment, null::text, hash;
            if not exists (select from agent_registry r where r.agent_id = recipient and r.enabled is not false) then
              raise exception using errcode = 'PB001', column = 'enabled',
                message = 'an agent that is added is not there afterwards, or is disabled';
            end if;
          when 'borrow' then
            select min(r.agent_id::text), max(r.agent_id::text) into sender, recipient
            from agent_registry r where r.enabled is not false;
            if recipient is null then
              sender := own_name || '-a'; recipient := own_name || '-b';
              raise exception using errcode = 'PB000', message = 'there is no agent';
            end if;
            if exists (select from agent_registry r where r.agent_id = recipient and r.token_hash is null) then
              execute statements ->> 'agent_add' using recipient, null::text, null::text, null::text, null::text, hash;
            end if;
          when 'rotate' then
            execute statements ->> 'agent_rotate' using recipient, hash, 1000::bigint;
          when 'enable' then
            execute statements ->> 'agent_enable' using recipient, false;
            execute statements ->> 'agent_enable' using recipient, true;
          when 'online' then
            begin
              execute statements ->> 'presence_connected'
                using broker, array[recipient], array[null::text], array[step ->> 'capabilities'],
                      array[step ->> 'version'];
            exception when feature_not_supported then
              -- A rule does not go with it. The broker then writes one agent after the other.
              execute statements ->> 'presence_each'
                using 'connected'::text, array[broker], array[recipient], array[null::text], array[step ->> 'capabilities'],
                      array[step ->> 'version'], null::text[];
            end;
          when 'heartbeat' then
            begin
              execute statements ->> 'presence_heartbeat' using broker, array[recipient];
            exception when feature_not_supported then
              execute statements ->> 'presence_each'
                using 'heartbeat'::text, array[broker], array[recipient], null::text[], null::text[], null::text[], null::text[];
            end;
          when 'offline' then
            -- One that is there may be with other brokers.
            update agent_registry r set connected_to = array[broker]
            where r.agent_id = recipient and r.connected_to is not null and r.connected_to <> array[broker];
            begin
              execute statements ->> 'presence_disconnected'
                using broker, array[recipient], array[step ->> 'reason'];
            exception when feature_not_supported then
              execute statements ->> 'presence_each'
                using 'disconnected'::text, array[broker], array[recipient], null::text[], null::text[], null::text[],
                      array[step ->> 'reason'];
            end;

          -- A message's life.
          when 'like others' then
            select m.message_type, m.payload into found_row from agent_messages m where m.to_agent_id is not null limit 1;
            if not found then
              raise exception using errcode = 'PB000', message = 'there is no message';
            end if;
            kind := found_row.message_type; body := found_row.payload;
          when 'long name' then
            execute statements ->> 'agent_add'
              using rpad(own_name, 256, 'x'), null::text, agent_type, environment, null::text, hash;
          when 'word' then
            kind := step ->> 'word';
          when 'insert' then
            message := gen_random_uuid();
            insert into agent_messages (message_id, from_agent_id, to_agent_id, message_type, payload)
            values (message, sender, recipient, kind, body);
            select d.delivery_id into delivery from postbell.deliveries d where d.message_id = message;
          when 'look' then
            select m.status, m.to_agent_id, m.topic, m.to_environment, m.to_group, m.to_instance, m.ordering_key,
                   m.dedupe_key, m.deliver_at, m.expires_at, d.priority as lane, d.state as waits
            into found_row
            from agent_messages m left join postbell.deliveries d on d.message_id = m.message_id and d.inbox = recipient
            where m.message_id = message;
            if not found then
              raise exception using errcode = 'PB001', message = 'a message that is inserted is not there afterwards';
            end if;
            filled := case
              when coalesce(found_row.status, 'pending') <> 'pending' then 'status'
              when found_row.to_agent_id is distinct from recipient then 'to_agent_id'
              when found_row.topic is not null then 'topic'
              when found_row.to_environment is not null then 'to_environment'
              when found_row.to_group is not null then 'to_group'
              when found_row.to_instance is not null then 'to_instance'
              when found_row.ordering_key is not null then 'ordering_key'
              when found_row.dedupe_key is not null then 'dedupe_key'
              when found_row.deliver_at > now() then 'deliver_at'
              when found_row.expires_at <= now() then 'expires_at'
            end;
            if filled is not null then
              raise exception using errcode = 'PB002', column = filled,
                message = 'something writes ' || filled || ' in each message that is inserted without it';
            end if;
            if found_row.lane is null or found_row.waits <> 'ready' then
              raise exception using errcode = 'PB001', message = 'a message that is inserted gets no delivery';
            end if;
          when 'mark' then
            execute statements ->> 'mark_delivered' using array[message];
          when 'ack', 'ack in one', 'again', 'dead' then
            begin
              case act
                when 'again' then
                  execute statements ->> 'settle_retry'
                    using array[delivery], array[0::smallint], array[1::smallint], array[0::bigint], array[step ->> 'reason'],
                          null::uuid;
                when 'dead' then
                  execute statements ->> 'settle_dead'
                    using array[delivery], array[0::smallint], array[1::smallint], array[step ->> 'reason'];
                else
                  execute statements ->> 'settle_ack' using array[delivery], array[0::smallint];
              end case;
            exception when feature_not_supported then
              -- A rule does not go with it. The broker then writes outcomes one by one.
              if act = 'ack in one' then
                raise;
              end if;
              execute statements ->> 'settle_each'
                using array[case act when 'again' then 'retry' else act end], array[delivery], array[0::smallint],
                      array[case act when 'ack' then 0 else 1 end::smallint], array[0::bigint], array[step ->> 'reason'],
                      1000, ''::text, null::uuid;
            end;
          when 'redrive' then
            begin
              execute statements ->> 'dead_redrive' using array[delivery], null::text, 0::bigint, 1::bigint;
            exception when feature_not_supported then
              execute statements ->> 'dead_wait' using array[delivery];
              execute statements ->> 'dead_ready' using array[delivery];
            end;
          when 'expire' then
            begin
              execute statements ->> 'settle_expired' using array[delivery], array[0::smallint];
            exception when feature_not_supported then
              execute statements ->> 'settle_each'
                using array['expired'], array[delivery], array[0::smallint], array[0::smallint], array[0::bigint],
                      array[null::text], 1000, ''::text, null::uuid;
            end;
          when 'delete' then
            delete from agent_messages m where m.message_id = message;
            if exists (select from agent_messages m where m.message_id = message) then
              raise exception using errcode = 'PB001', message = 'a message that is deleted is there still';
            end if;

          -- Messages for many, and messages that agents send.
          when 'broadcast' then
            message := gen_random_uuid();
            insert into agent_messages (message_id, from_agent_id, message_type, payload)
            values (message, sender, kind, body);
          when 'subscribe' then
            insert into postbell.subscriptions (pattern, agent_id) values (step ->> 'topic', recipient)
            on conflict do nothing;
          when 'send', 'send in one' then
            message := gen_random_uuid();
            send := step -> 'send';
            foreach way in array array['publish', 'publish_plain'] loop
              begin
                execute statements ->> way
                  using array[message], array[sender], array[case when send ? 'to' then send ->> 'to' else recipient end],
                        array[coalesce(send ->> 'type', kind)], array[body::text],
                        array[coalesce((send ->> 'priority')::int, 5)],
                        array[(send ->> 'delay_ms')::bigint], array[(send ->> 'ttl_ms')::bigint],
                        array[send ->> 'dedupe_key'], array[send ->> 'correlation_id'], array[send ->> 'headers'],
                        array[send ->> 'topic'],
                        array[case when send ? 'environment'
                                   then (select r.environment::text from agent_registry r where r.agent_id = recipient) end],
                        array[send ->> 'group'], array[send ->> 'to_instance'], array[send ->> 'ordering_key'];
                exit;
              exception when feature_not_supported or generated_always or invalid_column_reference then
                -- The table has a rule or computes a column. The broker then inserts by the plain statement. And here the
                -- index of the dedupe keys may be left out.
                if act = 'send in one' or way = 'publish_plain'
                   or sqlstate = '42P10' and not given -> 'without' ? 'agent_messages_dedupe' then
                  raise;
                end if;
              end;
            end loop;
          when 'arrives' then
            if not exists (select from postbell.deliveries d
                           where d.message_id = message and d.inbox = coalesce(step ->> 'inbox', recipient)) then
              select case when m.topic is not null and step -> 'send' ->> 'topic' is null then 'topic'
                          when m.to_environment is not null and step -> 'send' ->> 'environment' is null then 'to_environment'
                          when m.to_group is not null and step -> 'send' ->> 'group' is null then 'to_group'
                          when coalesce(m.status, 'pending') <> 'pending' then 'status' end
              into filled from agent_messages m where m.message_id = message;
              raise exception using errcode = 'PB003', column = coalesce(filled, ''),
                message = 'it has no delivery to whom it is for'
                          || coalesce(', since something writes ' || filled || ' in it', '');
            end if;

          -- Alerts and measurements. The absence is older than any other, so that it is the one that is taken.
          when 'alert', 'alert in one' then
            update postbell.presence_history h
            set since = '1970-01-01', status = 'offline', reason = 'silent', alert_id = null
            where h.agent_id = recipient and h.until = 'infinity';
            if found and exists (select from agent_registry r where r.agent_id = recipient and r.status = 'offline') then
              begin
                execute statements ->> 'alerts_offline' using 1000::bigint, 1::bigint, '{}'::bigint[];
              exception when feature_not_supported then
                if act = 'alert in one' then
                  raise;
                end if;
                execute statements ->> 'alerts_away' into found_row using 1000::bigint, 1::bigint, '{}'::bigint[];
                execute statements ->> 'alerts_raise' using found_row.alerts, found_row.spans;
                execute statements ->> 'alerts_raised' using found_row.alerts, found_row.spans;
              end;
              select h.alert_id into message from postbell.presence_history h
              where h.agent_id = recipient and h.until = 'infinity';
              if not exists (select from agent_alerts a where a.alert_id = message) then
                raise exception using errcode = 'PB001', message = 'an alert that is raised is not there afterwards';
              end if;
            end if;
          when 'escalate', 'escalate in one' then
            update postbell.escalations e set raised_at = '1970-01-01' where e.alert_id = message;
            begin
              execute statements ->> 'alerts_escalate' using 1000::bigint, 1::bigint;
            exception when feature_not_supported then
              if act = 'escalate in one' then
                raise;
              end if;
              execute statements ->> 'alerts_due' into found_row using 1000::bigint, 1::bigint;
              execute statements ->> 'alerts_mark' using found_row.alerts;
              for told in execute statements ->> 'alerts_whom' using found_row.alerts loop
                execute statements ->> 'alerts_tell'
                  using array[told.message_id], array[told.alert_id], array[told.agent_id];
              end loop;
            end;
          when 'resolve' then
            update postbell.alerts a set status = 'resolved', resolved_at = now(), resolved_by = 'postbell'
            where a.alert_id = message;
          when 'measure' then
            -- Without its index the statement would read the whole table, so it is only planned.
            execute case when given -> 'without' ? 'agent_metrics_recorded_at' then 'explain ' else '' end
                    || (statements ->> 'agent_metrics_recent') using 15::bigint, 1::bigint;
        end case;
      end loop;

      -- A trigger, a rule or a policy may keep a row as it was without a word.
      if step ? 'status' then
        if not exists (select from agent_messages m where m.message_id = message and m.status = step ->> 'status') then
          raise exception using errcode = 'PB004', column = 'status',
            message = 'status is not ' || (step ->> 'status') || ' afterwards';
        end if;
      elsif step ? 'presence' then
        if not exists (select from agent_registry r where r.agent_id = recipient and r.status = step ->> 'presence') then
          raise exception using errcode = 'PB004', column = 'status',
            message = 'status is not ' || (step ->> 'presence') || ' afterwards';
        end if;
      end if;
      reached := reached || jsonb_build_object(coalesce(step ->> 'goal', step ->> 'so'), step ->> 'way');
    exception when others then
      get stacked diagnostics state = returned_sqlstate, said = message_text, detail = pg_exception_detail,
        context = pg_exception_context, of_schema = schema_name, of_table = table_name, of_column = column_name,
        of_constraint = constraint_name, hint = pg_exception_hint;
      faults := faults || ((step - 'sql' - 'send' - 'acts' - 'reason') || jsonb_build_object(
        'act', act, 'sqlstate', state, 'said', said, 'of_schema', nullif(of_schema, ''), 'of_table', nullif(of_table, ''),
        'column', nullif(of_column, ''), 'constraint', nullif(of_constraint, ''),
        -- The names in front of the values.
        'key', substring(detail from '\((.*?)\)=\('),
        'row_security', (select row_security_active(c.oid) from pg_class c where c.oid = to_regclass(step ->> 'table')),
        -- The triggers whose function was running; where nothing was raised, all that could have changed the row.
        'triggers', (
          select jsonb_agg(distinct found.name)
          from (
            select t.tgname || ' of ' || current_schema() || '.' || c.relname as name, t.tgfoid, c.oid as table_oid
            from pg_trigger t join pg_class c on c.oid = t.tgrelid
            where not t.tgisinternal and t.tgname !~ '^postbell_' and t.tgenabled <> 'D'
              and c.oid in (to_regclass('agent_messages'), to_regclass('agent_registry'), to_regclass('agent_alerts'),
                            to_regclass(step ->> 'table'))
            union all
            select e.evtname || ' of the whole database', e.evtfoid, null from pg_event_trigger e where e.evtenabled <> 'D'
          ) found
          join pg_proc p on p.oid = found.tgfoid
          where case when state like 'PB%' then found.table_oid = to_regclass(step ->> 'table')
                     else context ~ ('(^|[^[:alnum:]_])' || regexp_replace(p.proname, '([^[:alnum:]_])', '\\\1', 'g') || '"?\(') end),
        -- An escalation is a message.
        'rules', (select jsonb_agg(jsonb_build_object('name', w.rulename, 'of', current_schema() || '.' || c.relname)
                                   order by c.relname, w.rulename)
                  from pg_rewrite w join pg_class c on c.oid = w.ev_class
                  where w.ev_enabled in ('O', 'A') and (state like 'PB%' or state in ('0A000', '55000'))
                    and (c.oid = to_regclass(step ->> 'table')
                         or (state = '0A000' and step ->> 'table' = 'agent_alerts' and c.oid = to_regclass('agent_messages')))),
        'default', (select pg_get_expr(d.adbin, d.adrelid)
                    from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
                    where d.adrelid = to_regclass(step ->> 'table') and a.attname = of_column and state in ('PB001', 'PB002', 'PB003')),
        'narrow', (select jsonb_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod) order by a.attnum)
                   from pg_attribute a
                   where a.attrelid = to_regclass(step ->> 'table') and a.attnum > 0 and not a.attisdropped
                     and a.atttypid in ('varchar'::regtype, 'bpchar'::regtype)
                     and (not step ? 'writes' or step -> 'writes' ? a.attname)
                     and a.atttypmod - 4 < coalesce((given -> 'longest' ->> a.attname)::int, 256) and state = '22001')));
      -- Nothing after it can be tried on tables that are not what they should be.
      exit when act in ('apply', 'unique') or state in ('55P03', '40P01', '25006');
    end;
  end loop;
  perform set_config('postbell.rehearsed', jsonb_build_object(
    'schema', current_schema(), 'role', current_user, 'reached', reached, 'deliveries', deliveries,
    'unreached', unreached, 'faults', faults)::text, true);
end
$rehearsal$
