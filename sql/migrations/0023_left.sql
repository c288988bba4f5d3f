-- Routing after the commit. While the mesh is busy and a router lives, an INSERT leaves its messages: the row carries the id of its
-- transaction, and the router makes the deliveries, many at once, right after the commit. Why, and why nothing is lost or overtaken:
-- docs/explanation/routing.md. Figures in docs/explanation/measurements.md.

-- Until when messages may be left, in milliseconds since 1970; 0: not at all. A sequence and not a row, as postbell.bell is: everyone
-- sees at once what was written last, whatever their snapshots.
create sequence postbell.routed minvalue 0;
revoke all on sequence postbell.routed from public;

-- Who routes what is left, and how far that went.
create table postbell.router (
  only_row  boolean primary key default true check (only_row),
  -- Null: nobody. Then nothing is left that is not routed.
  broker_id uuid,
  -- One more with each new router: a router that was taken for dead writes nothing any more.
  epoch     bigint not null default 0,
  -- All left messages that this snapshot shows are routed.
  routed    pg_snapshot not null default pg_current_snapshot()
) with (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
revoke all on postbell.router from public;
insert into postbell.router (only_row) values (true);

-- Transactions that routed what they had left themselves.
create table postbell.self_routed (
  txid xid8 primary key
);
revoke all on postbell.self_routed from public;

-- What happened to a left message while its router may have been reading it is noted with the message's transaction, and looked at
-- once the router is past that.
alter table postbell.unseen add column txid xid8;

-- No rewrite: a column without a default, and the default for what comes. triggers/leave.sql says for each INSERT whether its rows are
-- left, and up to how many of its transaction: the router would keep everybody waiting for a million.
alter table agent_messages
  add column if not exists left_txid xid8,
  -- The order of messages: a message whose writer saw another one has a later moment, whichever transaction began first.
  add column if not exists left_at timestamptz;
alter table agent_messages
  alter column left_txid set default
    case when current_setting('postbell.left', true) = '1'
              and pg_stat_get_xact_tuples_inserted('agent_messages'::regclass) < current_setting('postbell.left_to', true)::bigint
    then pg_current_xact_id() end,
  alter column left_at set default case when current_setting('postbell.left', true) = '1' then clock_timestamp() end;

-- `place` orders what a COPY wrote in one microsecond.
create or replace view postbell.messages as
  select message_id, from_agent_id, to_agent_id, to_group, to_instance, topic, to_environment, ordering_key, priority, status,
         created_at, deliver_at, expires_at, left_txid, left_at, ctid as place
  from agent_messages;

-- Whether a message with this transaction was left and waits for the router; the caller's own transaction counts. A transaction that
-- this cluster has not reached is of another cluster's dump.
create function postbell.is_left(id xid8) returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select id is not null and exists (
    select from postbell.router r
    where r.only_row and r.broker_id is not null and not pg_visible_in_snapshot(id, r.routed)
      and (id = pg_current_xact_id_if_assigned() or id < pg_snapshot_xmax(pg_current_snapshot())))
$$;
revoke all on function postbell.is_left(xid8) from public;

-- What is left and not routed: since when, to whom, and whether that broker lives. A few milliseconds' messages of a busy mesh; more,
-- and older ones, where the router has died.
create view postbell.unrouted as
  select count(m.message_id) as messages, min(m.created_at) as since, r.broker_id as router,
         exists (select from postbell.brokers b where b.broker_id = r.broker_id and b.lease_until > clock_timestamp()) as router_lives
  from postbell.router r
  left join postbell.messages m
    on m.left_txid >= pg_snapshot_xmin(r.routed) and coalesce(m.status, 'pending') = 'pending' and postbell.is_left(m.left_txid)
  where r.broker_id is not null
  group by r.broker_id;
revoke all on postbell.unrouted from public;

-- Whether the caller's statement shows a left message that is not routed. The planner must not read the whole table for that: it
-- believes that one row in three is such a one. Compiling the plan would cost 100 times what running it does.
create function postbell.shows_left() returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
  r record;
begin
  select pg_snapshot_xmax(s.routed) as xmax, array(select pg_snapshot_xip(s.routed)) as in_progress into r
  from postbell.router s where s.only_row and s.broker_id is not null;
  return found and (
    exists (select from postbell.messages m where m.left_txid >= r.xmax and m.left_txid < pg_snapshot_xmax(pg_current_snapshot()))
    or exists (select from postbell.messages m where m.left_txid = pg_current_xact_id_if_assigned() and m.left_txid >= r.xmax)
    or exists (select from postbell.messages m where m.left_txid = any (r.in_progress)));
end
$$;
revoke all on function postbell.shows_left() from public;

-- Waits until the router has routed what others had left when this transaction's statement began, a second at most. A delivery that a
-- trigger makes would overtake such a message.
create function postbell.await_router() returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
declare
  began timestamptz := clock_timestamp();
begin
  while clock_timestamp() < began + interval '1 second' and exists (
    select from postbell.router r
    cross join lateral (
      select from postbell.messages m
      where m.left_txid >= pg_snapshot_xmax(r.routed) and m.left_txid < pg_snapshot_xmax(pg_current_snapshot())
        and m.left_txid <> pg_current_xact_id() and m.left_at < began
      union all
      select from postbell.messages m
      where m.left_txid = any (array(select pg_snapshot_xip(r.routed))) and m.left_txid <> pg_current_xact_id()
      limit 1) m
    where r.only_row and r.broker_id is not null)
  loop
    perform pg_sleep(0.002);
  end loop;
end
$$;
revoke all on function postbell.await_router() from public;

-- Makes the deliveries of what this transaction left so far, before it makes others itself.
create function postbell.route_own() returns void
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_bitmapscan = off set jit = off
as $$
begin
  insert into postbell.self_routed (txid) values (pg_current_xact_id()) on conflict do nothing;
  perform postbell.route_these(array(
    select m.message_id from postbell.messages m where m.left_txid = pg_current_xact_id() order by m.left_at, m.place));
end
$$;
revoke all on function postbell.route_own() from public;

-- Makes the deliveries of those of these messages that wait and were not routed, by the rules of triggers/route.sql and in this
-- order; says how many. Whoever calls it holds the messages' rows, so that nobody routes them as well.
create function postbell.route_these(ids uuid[]) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  made bigint;
begin
  with waiting as materialized (
    select m.*, i.n
    from (select id, min(n) as n from unnest(ids) with ordinality u (id, n) group by id) i
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
  insert into postbell.deliveries (message_id, inbox, priority, state, due_at, ordering_key)
  select w.message_id, r.inbox,
         case when w.to_instance is null then least(greatest(coalesce(w.priority, 5), 1), 10) else 0 end,
         case when w.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
         case when w.deliver_at > now() then w.deliver_at end,
         case when octet_length(w.ordering_key) > 200 then md5(w.ordering_key) else w.ordering_key end
  from waiting w
  cross join lateral (
    select postbell.inbox_of(w.to_agent_id, w.to_group) as inbox where w.to_agent_id is not null or w.to_group is not null
    union all
    select f.inbox from to_many t cross join lateral postbell.recipients(coalesce(w.from_agent_id, ''), w.topic, w.to_environment) f (inbox)
    where t.message_id = w.message_id and not starts_with(f.inbox, 'group:')
  ) r
  order by w.n, r.inbox;
  get diagnostics made = row_count;
  return made;
end
$$;
revoke all on function postbell.route_these(uuid[]) from public;

-- As in 0018, but what is left is the router's.
create or replace function postbell.route_again(ids uuid[]) returns bigint
language sql set search_path = pg_catalog, pg_temp
as $$
  select postbell.route_these(array(
    select m.message_id
    from (select distinct id from unnest(ids) u (id)) i
    cross join lateral (select m.message_id, m.created_at, m.left_txid from postbell.messages m where m.message_id = i.id offset 0) m
    where not postbell.is_left(m.left_txid)
    order by m.created_at, m.message_id))
$$;

-- Makes this broker the router, unless one who lives is. Says its epoch and how far the last one came; nothing where another is the
-- router, or where messages could be hidden from it. A broker that does not know how its last statement ended takes its place anew:
-- the epoch ends what the server may still be doing for it.
create function postbell.take_routing(me uuid, out epoch bigint, out routed pg_snapshot)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  was record;
begin
  select r.broker_id, r.epoch, r.routed into was from postbell.router r where r.only_row for update;
  if not found or postbell.may_hide()
     or exists (select from postbell.brokers b
                where b.broker_id = was.broker_id and b.broker_id <> me and b.lease_until > clock_timestamp()) then
    return;
  end if;
  if pg_snapshot_xmax(was.routed) > pg_snapshot_xmax(pg_current_snapshot()) then
    -- Of another cluster's dump, or of transactions that a failover lost: no place to begin at. All messages are looked at instead.
    was.routed := pg_current_snapshot();
    delete from postbell.looked;
  elsif was.broker_id is null then
    -- Nobody was the router: then nothing is left.
    was.routed := pg_current_snapshot();
  end if;
  update postbell.router r set broker_id = me, epoch = was.epoch + 1, routed = was.routed where r.only_row;
  epoch := was.epoch + 1;
  routed := was.routed;
end
$$;
revoke all on function postbell.take_routing(uuid) from public;

-- Whether a message without a delivery, of a transaction that routed what it had left itself, was not routed: the transaction may have
-- changed the message after that. Otherwise the message is over, and the table refuses to say so. A function, so that a lock on
-- set_aside holds up nobody else.
create function postbell.is_unrouted(id uuid) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  return not exists (select from postbell.set_aside s where s.message_id = id);
end
$$;
revoke all on function postbell.is_unrouted(uuid) from public;

-- The inboxes of a message to many, the first time. A function, so that a lock on what only such messages need holds up nobody else.
create function postbell.route_broadcast(id uuid, sender text, topic text, environment text) returns setof text
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  insert into postbell.broadcasts (message_id) values (id) on conflict do nothing;
  if found then
    return query select r.inbox from postbell.recipients(coalesce(sender, ''), topic, environment) r (inbox)
                 where not starts_with(r.inbox, 'group:');
  end if;
end
$$;
revoke all on function postbell.route_broadcast(uuid, text, text, text) from public;

-- Fails where row level security may have hidden messages from the statement before, in the same transaction: the round must not count
-- them as routed. The first look is at what few meshes have, and costs a tenth of the second.
create function postbell.refuse_hidden() returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from pg_class c join pg_class v on v.oid = 'postbell.messages'::regclass
             where c.relname = 'agent_messages' and c.relrowsecurity and (c.relforcerowsecurity or c.relowner <> v.relowner))
     and postbell.may_hide() then
    raise exception 'postbell: row level security may hide messages from the router, so triggers route'
      using errcode = 'object_not_in_prerequisite_state';
  end if;
end
$$;
revoke all on function postbell.refuse_hidden() from public;

-- One round of the router: makes the deliveries of all messages that were left, and that its snapshot shows and the last one did not.
-- All of it is one statement, so has one snapshot, which is the next one's starting point. `is_router`: it may go on. `seen`: how many
-- left messages there were. `made`: how many deliveries. `leave_ms` is for how long messages may be left from now on; null: as it is.
create function postbell.route(me uuid, my_epoch bigint, last_xmax xid8, last_in_progress xid8[], leave_ms bigint,
                               out is_router boolean, out snapshot pg_snapshot, out seen bigint, out made bigint)
language plpgsql set search_path = pg_catalog, pg_temp set jit = off
as $$
begin
  -- A routing that a crash of the server forgets is done again: the row of the router forgets with it.
  perform set_config('synchronous_commit', 'off', true);
  with here as materialized (
    select pg_current_snapshot() as snapshot
  ), arrived as materialized (
    select m.* from postbell.messages m, here h where m.left_txid >= last_xmax and m.left_txid < pg_snapshot_xmax(h.snapshot)
    union all
    select m.* from postbell.messages m where m.left_txid = any (last_in_progress)
  ), fence as materialized (
    -- The row also holds up whoever wants to be the router, until this is committed.
    update postbell.router r set routed = h.snapshot
    from here h
    where r.only_row and r.broker_id = me and r.epoch = my_epoch and exists (select from arrived)
    returning r.epoch
  ), waiting as materialized (
    select a.* from arrived a cross join fence
    where coalesce(a.status, 'pending') = 'pending'
      and not exists (select from postbell.deliveries d where d.message_id = a.message_id offset 0)
      and (not exists (select from postbell.self_routed s where s.txid = a.left_txid offset 0) or postbell.is_unrouted(a.message_id))
  ), routes as (
    insert into postbell.deliveries (message_id, inbox, priority, state, due_at, ordering_key)
    select w.message_id, r.inbox,
           case when w.to_instance is null then least(greatest(coalesce(w.priority, 5), 1), 10) else 0 end,
           case when w.deliver_at > now() then 'scheduled'::postbell.delivery_state else 'ready' end,
           case when w.deliver_at > now() then w.deliver_at end,
           case when octet_length(w.ordering_key) > 200 then md5(w.ordering_key) else w.ordering_key end
    from waiting w
    cross join lateral (
      select coalesce(case when starts_with(w.to_agent_id, 'group:') then 'agent:' || w.to_agent_id else w.to_agent_id end,
                      'group:' || w.to_group) as inbox
      where w.to_agent_id is not null or w.to_group is not null
      union all
      select b.inbox from postbell.route_broadcast(w.message_id, w.from_agent_id, w.topic, w.to_environment) b (inbox)
      where w.to_agent_id is null and w.to_group is null
    ) r
    order by w.left_at, w.left_txid, w.place, r.inbox
    returning 1
  )
  select h.snapshot, (select count(*) from arrived), (select count(*) from routes),
         exists (select from fence) or not exists (select from arrived)
           and exists (select from postbell.router r where r.only_row and r.broker_id = me and r.epoch = my_epoch)
  into snapshot, seen, made, is_router
  from here h;
  perform postbell.left_until(me, my_epoch, leave_ms) where is_router and leave_ms is not null;
  if made > 0 and pg_sequence_last_value('postbell.bell'::regclass) > date_part('epoch', now())
     and pg_notification_queue_usage() < 0.9 then
    perform pg_notify('postbell', '');
  end if;
  perform postbell.refuse_hidden();
end
$$;
revoke all on function postbell.route(uuid, bigint, xid8, xid8[], bigint) from public;

-- Writes for how long messages may be left from now on; 0: only behind others that are left and not routed; below 0: not any more.
-- Holds the router's row until the end: a router that was taken for dead must not write after the next one has.
create function postbell.left_until(me uuid, my_epoch bigint, leave_ms bigint) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform from postbell.router r where r.only_row and r.broker_id = me and r.epoch = my_epoch for update;
  if found then
    perform setval('postbell.routed', case when leave_ms >= 0 and not postbell.may_hide() then
      floor(date_part('epoch', clock_timestamp()) * 1000)::bigint + leave_ms else 0 end);
  end if;
end
$$;
revoke all on function postbell.left_until(uuid, bigint, bigint) from public;

-- A round in place of one that failed: notes what was left, for the sweep, which takes each message by itself.
create function postbell.route_noted(me uuid, my_epoch bigint, last_xmax xid8, last_in_progress xid8[],
                                     out is_router boolean, out snapshot pg_snapshot, out seen bigint)
language plpgsql set search_path = pg_catalog, pg_temp set jit = off
as $$
begin
  with here as materialized (
    select pg_current_snapshot() as snapshot
  ), fence as materialized (
    update postbell.router r set routed = h.snapshot
    from here h where r.only_row and r.broker_id = me and r.epoch = my_epoch
    returning r.epoch
  ), noted as (
    insert into postbell.unseen (message_id, moved, set_back)
    select a.message_id, false, false
    from (select m.message_id, m.left_txid, m.left_at, m.place from postbell.messages m, here h
          where m.left_txid >= last_xmax and m.left_txid < pg_snapshot_xmax(h.snapshot)
          union all
          select m.message_id, m.left_txid, m.left_at, m.place from postbell.messages m where m.left_txid = any (last_in_progress)) a
    cross join fence
    order by a.left_at, a.left_txid, a.place
    returning 1
  )
  select h.snapshot, (select count(*) from noted), exists (select from fence) into snapshot, seen, is_router from here h;
  perform postbell.refuse_hidden();
end
$$;
revoke all on function postbell.route_noted(uuid, bigint, xid8, xid8[]) from public;

-- The router leaves. Where something may be left, the row names a broker that never lived, so another takes over. False: it was not
-- the router.
create function postbell.give_routing(me uuid, my_epoch bigint, is_over boolean) returns boolean
language sql set search_path = pg_catalog, pg_temp
as $$
  with gone as (
    update postbell.router
    set broker_id = case when not is_over then '00000000-0000-0000-0000-000000000000'::uuid end,
        routed = case when is_over then pg_current_snapshot() else routed end
    where only_row and broker_id = me and epoch = my_epoch
    returning 1
  ), forgotten as (
    delete from postbell.self_routed where is_over and exists (select from gone)
  )
  select exists (select from gone)
$$;
revoke all on function postbell.give_routing(uuid, bigint, boolean) from public;

-- As in 0003, but the bell is set before the row is written: a producer has its transaction's id before it reads the bell, so all who
-- read it as it was have lower ids than ours, and the snapshot after our commit shows them open. The row's id came first before, and
-- a producer between the two was found a second late.
create or replace function postbell.arm(broker uuid, sleeps boolean) returns void
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  -- Others see it at once; and a crash of the server ends the broker's connection anyway.
  perform set_config('synchronous_commit', 'off', true);
  -- One at a time until the commit: whoever comes next counts what this one wrote.
  perform pg_advisory_xact_lock(hashtextextended('postbell.bell', 0));
  perform setval('postbell.bell', coalesce(
    (select ceil(extract(epoch from max(lease_until)))::bigint
     from postbell.brokers
     where case when broker_id = broker then sleeps else armed end and lease_until > clock_timestamp()), 0));
  update postbell.brokers set armed = sleeps where broker_id = broker;
end
$$;

-- Takes these notes of what was written unseen; says how many it took, and how many deliveries became ready. Messages whose rows are
-- held are left for the next time: rows first, then deliveries, as pollers take them.
create function postbell.sweep_these(these bigint[], out took bigint, out ready bigint)
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
  one record;
begin
  took := 0;
  ready := 0;
  for one in
    select u.message_id, bool_or(u.moved) as moved, bool_or(u.set_back) as set_back, array_agg(u.noted_id) as notes
    from (select n.noted_id, n.message_id, n.moved, n.set_back from postbell.unseen n
          where n.noted_id = any (these) for update skip locked) u
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
revoke all on function postbell.sweep_these(bigint[]) from public;

-- The notes that a sweep may take: the oldest. What a router may be routing stays noted until the router is past it.
create function postbell.noted(at_most integer, left_out bigint[]) returns bigint[]
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select array(select n.noted_id from postbell.unseen n
               where n.noted_id <> all (left_out) and (n.txid is null or not postbell.is_left(n.txid))
               order by n.noted_id limit at_most)
$$;
revoke all on function postbell.noted(integer, bigint[]) from public;

-- Whether all messages must be looked at, since a trigger was touched. While somebody keeps the trigger off, every look is needed.
create function postbell.must_look() returns boolean
language sql stable set search_path = pg_catalog, pg_temp
as $$
  select marks is distinct from (select l.marks from postbell.looked l)
         or marks ~ '/D( |$)' or marks !~ '\mpostbell_route/' or marks is null
  from postbell.trigger_marks() marks
$$;
revoke all on function postbell.must_look() from public;

-- As in 0018, in these parts. Brokers of earlier versions call it.
create or replace function postbell.sweep(at_most integer, out took bigint, out ready bigint, out look boolean)
language sql set search_path = pg_catalog, pg_temp
as $$
  select s.took, s.ready, postbell.must_look() from postbell.sweep_these(postbell.noted(at_most, '{}')) s
$$;

-- As in 0018, with what the triggers use now.
create or replace view postbell.intact as
  select d.message_id, d.inbox, d.priority, d.state, d.due_at, d.dead_at, d.txid, d.attempt, d.last_error, d.ordering_key,
         m.status, m.to_agent_id, m.to_group, m.to_instance, m.topic, m.to_environment, m.from_agent_id, m.deliver_at,
         c.message_id as broadcast, z.message_id as aside, u.noted_id, u.message_id as unseen, u.moved, u.set_back,
         l.inbox as leased, l.broker_id, b.lease_until,
         h.span_id, h.agent_id, h.since, h.until, h.status as presence, h.reason, h.alert_id,
         e.alert_id as escalated, e.raised_at, o.topic as sent, a.status as alert,
         postbell.inbox_of('', ''), postbell.agent_inbox(''), postbell.alert_topic(''), postbell.alert_priority(''), postbell.users_path('public'), r.r as recipient,
         n.last_value,
         u.txid as unseen_txid, m.left_txid, m.left_at, m.place, t.last_value as left_until, w.routed, x.txid as routed_itself
  from postbell.deliveries d, postbell.messages m, postbell.broadcasts c, postbell.set_aside z, postbell.unseen u, postbell.leases l,
       postbell.brokers b, postbell.presence_history h, postbell.escalations e, postbell.outbox o, postbell.alerts a,
       postbell.recipients('', '', '') r, postbell.bell n, postbell.subscriptions s, postbell.agents g, postbell.routed t,
       postbell.router w, postbell.self_routed x
  where false and s.pattern = any (postbell.topic_patterns('')) and s.agent_id = g.agent_id
    and postbell.follow(d.message_id, true, true) = postbell.route_again('{}')
    and postbell.send_alerts('', '{}', '{}', '{}', '{}') is null and postbell.resolve_alert('', d.message_id) is null
    and postbell.shows_left() and postbell.is_left(m.left_txid) and postbell.route_own() is null and postbell.await_router() is null and postbell.route_these('{}') = 0;
