-- Messages that no trigger routed are found; what the triggers need can be asked for in one look; and the user's own
-- triggers run with a search_path that is theirs.

-- The messages, bound to the table in whatever schema it lives. Postgres refuses to drop a column that a view reads, and
-- names the view: a column that each INSERT needs is not dropped by accident.
create view postbell.messages as
  select message_id, from_agent_id, to_agent_id, to_group, to_instance, topic, to_environment, priority, status,
         created_at, deliver_at, expires_at
  from agent_messages;
revoke all on postbell.messages from public;

-- Messages to many that were routed and may not be over: all their deliveries may be settled, or there were none, while the
-- message still waits to be marked. Without this nobody could tell them from those that no trigger saw.
create table postbell.broadcasts (
  message_id uuid primary key
);
revoke all on postbell.broadcasts from public;
-- Messages that were written while session_replication_role was replica: by logical replication, by tools that load data.
-- triggers/unseen.sql notes them, postbell.sweep() takes them.
create table postbell.unseen (
  noted_id   bigint generated always as identity primary key,
  message_id uuid not null,
  -- To whom it is for was changed.
  moved      boolean not null,
  -- It had ended and was set back to pending.
  set_back   boolean not null
);
revoke all on postbell.unseen from public;

-- How the triggers on agent_messages were when all messages were last looked at: Postgres writes a trigger's row anew when
-- somebody disables or enables it, however shortly.
create table postbell.looked (
  only_row boolean primary key default true check (only_row),
  marks    text not null,
  at       timestamptz not null default now()
);
revoke all on postbell.looked from public;

-- Makes the deliveries of those of these messages that wait and were not routed, by the rules of triggers/route.sql; says
-- how many. Whoever calls it holds the messages' rows, so that nobody routes them as well.
create function postbell.route_again(ids uuid[]) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  made bigint;
begin
  with waiting as materialized (
    select m.*
    from (select distinct id from unnest(ids) u (id)) i
    cross join lateral (select * from postbell.messages m where m.message_id = i.id offset 0) m
    where coalesce(m.status, 'pending') = 'pending' and (m.expires_at is null or m.expires_at > now())
      and not exists (select from postbell.deliveries d where d.message_id = m.message_id offset 0)
      -- It is over, and the table refuses to say so.
      and not exists (select from postbell.set_aside s where s.message_id = m.message_id offset 0)
  ), to_many as (
    insert into postbell.broadcasts (message_id)
    select w.message_id from waiting w where w.to_agent_id is null and w.to_group is null
    on conflict do nothing
    returning message_id
  )
  insert into postbell.deliveries (message_id, inbox, priority, state, due_at)
  select w.message_id, r.inbox,
         case when w.to_instance is null then least(greatest(coalesce(w.priority, 5), 1), 10) else 0 end,
         case when w.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
         case when w.deliver_at > now() then w.deliver_at end
  from waiting w
  cross join lateral (
    select coalesce(w.to_agent_id, 'group:' || w.to_group) as inbox where w.to_agent_id is not null or w.to_group is not null
    union all
    select f.inbox from to_many t cross join lateral postbell.recipients(coalesce(w.from_agent_id, ''), w.topic, w.to_environment) f (inbox)
    where t.message_id = w.message_id
  ) r
  order by w.created_at, w.message_id, r.inbox;
  get diagnostics made = row_count;
  return made;
end
$$;
revoke all on function postbell.route_again(uuid[]) from public;

-- A message's deliveries follow what was written to its row by somebody else than a broker; says how many became ready.
-- moved: to whom it is for was changed. set_back: it had ended, and waits again. Whoever calls it holds the row.
create function postbell.follow(id uuid, moved boolean, set_back boolean) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  m record;
  waits boolean;
  gone bigint := 0;
  again bigint := 0;
begin
  select x.status, coalesce(x.to_agent_id, 'group:' || x.to_group) as inbox into m
  from postbell.messages x where x.message_id = id;
  if not found then
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
      insert into postbell.deliveries (message_id, inbox, priority)
      select id, m.inbox, least(greatest(coalesce(x.priority, 5), 1), 10)
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
revoke all on function postbell.follow(uuid, boolean, boolean) from public;

-- How each trigger on agent_messages is, and since which transaction: equal texts mean that nobody touched one of them, nor
-- made the deliveries' table anew.
create function postbell.trigger_marks() returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select concat(to_regclass('postbell.deliveries')::oid, ' ', string_agg(concat_ws('/', t.tgname, t.oid, t.xmin, t.tgenabled), ' ' order by t.tgname))
  from pg_trigger t
  where t.tgname like 'postbell\_%' and t.tgrelid in (
    select d.refobjid
    from pg_rewrite r
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
    where r.ev_class = to_regclass('postbell.messages'))
$$;
revoke all on function postbell.trigger_marks() from public;

-- Takes what was noted as written unseen, at most so much; says how much it took, how many deliveries became ready, and
-- whether all messages must be looked at. Messages whose rows are held are left for the next time: rows first, then
-- deliveries, as pollers take them.
create function postbell.sweep(at_most integer, out took bigint, out ready bigint, out look boolean)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  one record;
  marks text := postbell.trigger_marks();
begin
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
    perform from postbell.messages m where m.message_id = one.message_id for no key update skip locked;
    if not found and exists (select from postbell.messages m where m.message_id = one.message_id) then
      continue;
    end if;
    ready := ready + postbell.follow(one.message_id, one.moved, one.set_back);
    delete from postbell.unseen n where n.noted_id = any (one.notes);
    took := took + cardinality(one.notes);
  end loop;
  if ready > 0 then
    perform pg_notify('postbell', '');
  end if;
end
$$;
revoke all on function postbell.sweep(integer) from public;

-- Looks at all messages, after somebody touched the triggers: makes the deliveries that are missing and removes those that
-- are not wanted any more. One broker does it at a time; null: another one is at it. Reads both tables whole.
create function postbell.look_at_all() returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  -- Before anything is read: what is touched meanwhile is looked at again.
  found_marks text := postbell.trigger_marks();
  ids uuid[];
  made bigint := 0;
begin
  if not pg_try_advisory_xact_lock(hashtextextended('postbell.look', 0)) then
    return null;
  end if;
  delete from postbell.deliveries d where not exists (select from postbell.messages m where m.message_id = d.message_id);
  delete from postbell.deliveries d using postbell.messages m
  where m.message_id = d.message_id and d.state <> 'dead' and (m.to_agent_id is not null or m.to_group is not null)
    and (m.status not in ('pending', 'delivered')
         -- Readdressed.
         or d.inbox <> coalesce(m.to_agent_id, 'group:' || m.to_group));
  ids := array(
    select m.message_id from postbell.messages m
    where coalesce(m.status, 'pending') = 'pending' and (m.expires_at is null or m.expires_at > now())
      and not exists (select from postbell.deliveries d where d.message_id = m.message_id)
      and not exists (select from postbell.set_aside s where s.message_id = m.message_id)
      and not exists (select from postbell.broadcasts b where b.message_id = m.message_id
                        and m.to_agent_id is null and m.to_group is null)
    order by m.created_at, m.message_id
    -- Held: by whoever changes it, who routes it then, or by a poller. The next look finds what is left.
    for no key update skip locked);
  made := postbell.route_again(ids);
  insert into postbell.looked (marks) values (found_marks)
  on conflict (only_row) do update set marks = excluded.marks, at = now();
  if made > 0 then
    perform pg_notify('postbell', '');
  end if;
  return made;
end
$$;
revoke all on function postbell.look_at_all() from public;

-- The search_path of a session of this role in this database: what the user's own triggers have without us. From the
-- catalog and not from the session, whose own one is anybody's to set. pg_temp is last: left out it would come first.
create function postbell.users_path(tables name) returns text
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select coalesce(
           (select nullif(substring(c from 13), '""')
            from pg_db_role_setting s cross join unnest(s.setconfig) c
            where c like 'search\_path=%'
              and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))
              and s.setrole in (0, (select oid from pg_roles where rolname = current_user))
            order by s.setrole <> 0 desc, s.setdatabase <> 0 desc
            limit 1),
           '"$user", public')
         || ', ' || quote_ident(tables) || ', pg_temp'
$$;
revoke all on function postbell.users_path(name) from public;

-- Sends the messages of alerts. The user's triggers on agent_messages run in this, so the search_path is theirs. Everything
-- else here is named with its schema and takes no operator: with that path another's could be found first.
create function postbell.send_alerts(tables name, senders text[], topics text[], payloads jsonb[], priorities integer[])
returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_catalog.set_config('search_path', postbell.users_path(tables), true);
  insert into postbell.outbox (from_agent_id, topic, message_type, payload, priority)
  select a.sender, a.topic, 'alert', a.payload, a.priority
  from rows from (pg_catalog.unnest(senders), pg_catalog.unnest(topics), pg_catalog.unnest(payloads),
                  pg_catalog.unnest(priorities)) a (sender, topic, payload, priority);
end
$$;
revoke all on function postbell.send_alerts(name, text[], text[], jsonb[], integer[]) from public;

-- Ends the alert of an absence; the user's triggers on agent_alerts run in this, as above.
create function postbell.resolve_alert(tables name, alert uuid) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_catalog.set_config('search_path', postbell.users_path(tables), true);
  begin
    -- An alert that somebody holds, or whose table does not take it, must not keep the agent from being online.
    update postbell.alerts a set status = 'resolved', resolved_at = pg_catalog.now(), resolved_by = 'postbell'
    where a.alert_id operator(pg_catalog.=) (
      select l.alert_id from postbell.alerts l
      where l.alert_id operator(pg_catalog.=) alert
        and (l.status is null or l.status::pg_catalog.text operator(pg_catalog.<>) 'resolved'::pg_catalog.text)
      for no key update skip locked);
  exception when others then
    raise warning 'postbell: the alert of an absence could not be resolved (SQLSTATE %)', sqlstate;
  end;
end
$$;
revoke all on function postbell.resolve_alert(name, uuid) from public;

-- It exists for as long as everything does that the triggers use: a trigger looks for it, and where it is gone, by a
-- `drop … cascade`, the user's statement goes on with a warning. Nobody reads it.
create view postbell.intact as
  select d.message_id, d.inbox, d.priority, d.state, d.due_at, d.dead_at, d.txid, d.attempt, d.last_error,
         m.status, m.to_agent_id, m.to_group, m.to_instance, m.topic, m.to_environment, m.from_agent_id, m.deliver_at,
         c.message_id as broadcast, z.message_id as aside, u.noted_id, u.message_id as unseen, u.moved, u.set_back,
         l.inbox as leased, l.broker_id, b.lease_until,
         h.span_id, h.agent_id, h.since, h.until, h.status as presence, h.reason, h.alert_id,
         e.alert_id as escalated, e.raised_at, o.topic as sent, a.status as alert,
         postbell.alert_topic(''), postbell.alert_priority(''), postbell.users_path('public'), r.r as recipient,
         n.last_value
  from postbell.deliveries d, postbell.messages m, postbell.broadcasts c, postbell.set_aside z, postbell.unseen u, postbell.leases l,
       postbell.brokers b, postbell.presence_history h, postbell.escalations e, postbell.outbox o, postbell.alerts a,
       postbell.recipients('', '', '') r, postbell.bell n, postbell.subscriptions s, postbell.agents g
  where false and s.pattern = any (postbell.topic_patterns('')) and s.agent_id = g.agent_id
    and postbell.follow(d.message_id, true, true) = postbell.route_again('{}')
    and postbell.send_alerts('', '{}', '{}', '{}', '{}') is null and postbell.resolve_alert('', d.message_id) is null;
revoke all on postbell.intact from public;
