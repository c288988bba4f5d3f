-- Agents apart from each other: ordering keys that pass no others, and bounds of what one agent takes, holds and locks.

-- Of the message: what orders it within its inbox. Here, so that a blocked key is passed over, and read on, without a look
-- at its messages. A long one as its digest: it is part of an index. NULL, as in most rows, costs nothing.
alter table postbell.deliveries add column ordering_key text;
update postbell.deliveries d
set ordering_key = case when octet_length(m.ordering_key) > 200 then md5(m.ordering_key) else m.ordering_key end
from agent_messages m where m.message_id = d.message_id and m.ordering_key is not null;
-- Only of rows that have one: any other insert pays for a look at the NULL.
create index deliveries_key on postbell.deliveries (inbox, ordering_key, delivery_id)
  where ordering_key is not null and state = 'ready';

alter table postbell.role_limits
  -- How long an agent may hold a delivery by extending its deadline, from the push.
  add column hold_seconds bigint check (hold_seconds > 0),
  -- Whether it may take from a group, and hold a lock, of which postbell.grants says nothing.
  add column may_take_groups boolean not null default true,
  add column may_lock boolean not null default true,
  -- Locks that it holds at a time, and tasks that it marked as done and retention has not forgotten.
  add column locks_held bigint check (locks_held > 0),
  add column locks_done bigint check (locks_done > 0),
  add column subscriptions bigint check (subscriptions > 0),
  -- Locks and releases, subscriptions and their ends: in the long run, and at once after a pause.
  add column requests_per_second bigint check (requests_per_second > 0),
  add column requests_burst bigint check (requests_burst > 0),
  add check ((requests_per_second is null) = (requests_burst is null));

-- The longest job of a hosted runner is held to its end; the rest is far above what an agent at work needs.
update postbell.role_limits
set hold_seconds = 21600, locks_held = 1000, locks_done = 10000, subscriptions = 100, requests_per_second = 200,
    requests_burst = 1000;

-- Who may take from a group, or hold a lock. Where a name has rows here, those agents may, and no others; where it has none,
-- the agent's role says it.
create table postbell.grants (
  kind       text not null check (kind in ('group', 'lock')),
  -- A group's name or a lock's key; with * at its end all that begin so.
  name       text not null,
  agent_id   text not null,
  created_at timestamptz not null default now(),
  primary key (kind, name, agent_id)
);
revoke all on postbell.grants from public;

create function postbell.may_use(asked_kind text, asked text, agent text, agent_role text) returns boolean
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
declare
  is_named boolean;
begin
  select bool_or(g.agent_id = agent) into is_named
  from postbell.grants g
  where g.kind = asked_kind and (g.name = asked or right(g.name, 1) = '*' and starts_with(asked, left(g.name, -1)));
  if is_named is not null then
    return is_named;
  end if;
  return coalesce(
    (select case asked_kind when 'group' then l.may_take_groups else l.may_lock end
     from postbell.role_limits l where l.role = any (array[agent_role, 'agent'])
     order by l.role = 'agent' limit 1), true);
end
$$;
revoke all on function postbell.may_use(text, text, text, text) from public;

-- The brokers look at once whether the sessions they serve may stay (triggers/access.sql does it for the registry).
create function postbell.announce_grants() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp
as $$
begin
  perform pg_notify('postbell_access', '');
  return null;
end
$$;
revoke all on function postbell.announce_grants() from public;
create trigger grants_changed after insert or update or delete on postbell.grants
  for each statement execute function postbell.announce_grants();
create trigger role_limits_changed after update of may_take_groups on postbell.role_limits
  for each statement execute function postbell.announce_grants();

-- What an agent holds, and what it has done: counted before it gets more.
create index locks_held on postbell.locks (agent_id, until) where done_at is null;
create index locks_done on postbell.locks (agent_id) where done_at is not null;

-- The inbox of a message whose to_agent_id begins as those of groups do. An adopted mesh may have agents of such names, which
-- take by SQL: theirs is no group's inbox. Anybody else's message would be pushed to a group that its sender need not name.
create function postbell.agent_inbox(agent text) returns text
language plpgsql stable set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from postbell.agents a where a.agent_id = agent) then
    return 'agent:' || agent;
  end if;
  raise exception 'the to_agent_id "%" is no agent''s: "group:" begins the inboxes of groups', agent
    using errcode = 'check_violation', hint = 'To send to a group, write its name into to_group and leave to_agent_id null.';
end
$$;
revoke all on function postbell.agent_inbox(text) from public;
