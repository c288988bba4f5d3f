-- Who is here, with what, since when, and why somebody is not.

alter table agent_registry
  -- What an agent can do, as its hello or whoever registered it says. Meshes have it from the start.
  add column if not exists capabilities jsonb default '{}',
  -- Of the agent's own software, as its hello says.
  add column if not exists agent_version text,
  -- The brokers it has sessions on. In the agent's own row, so that two brokers that change it at once come one after the
  -- other and see what the other made of it: the last one to lose the agent writes it offline, and no one else.
  add column if not exists connected_to uuid[],
  -- Why a broker wrote it offline: goodbye, disabled, disconnected, silent, broker_gone. Says nothing of what others write.
  add column if not exists offline_reason text;

-- Spans of time in which an agent was here (whatever its status but offline) or away, one after the other; written by
-- triggers/presence.sql and known.sql, whoever changed the status.
create table postbell.presence_history (
  span_id  bigint generated always as identity primary key,
  since    timestamptz not null default now(),
  -- infinity: it goes on.
  until    timestamptz not null default 'infinity',
  -- The one alert that was raised for this absence.
  alert_id uuid,
  agent_id text not null,
  -- online or offline.
  status   text not null,
  -- Of an absence that a broker wrote: see agent_registry.offline_reason. NULL: somebody else wrote it, or it began so.
  reason   text
);
-- One span goes on for each agent.
create unique index presence_history_open on postbell.presence_history (agent_id) where until = 'infinity';
create index presence_history_agent on postbell.presence_history (agent_id, until);
create index presence_history_until on postbell.presence_history (until) where until < 'infinity';
-- Absences that nobody was told of: few, whatever the history holds.
create index presence_history_untold on postbell.presence_history (since)
  where until = 'infinity' and alert_id is null and reason in ('disconnected', 'silent', 'broker_gone');
revoke all on postbell.presence_history from public;

-- Nothing is known of the time before.
insert into postbell.presence_history (agent_id, status)
  select agent_id, case when status = 'offline' then 'offline' else 'online' end from agent_registry
  on conflict (agent_id) where until = 'infinity' do nothing;

-- For each agent that may connect, how much of the last `period` it was here, counted from when it was registered or this
-- was installed where that is later. Uses presence_history_agent.
--
-- With its owner's rights, since nobody may read schema postbell; so whoever comes as one of the API's roles is held to what
-- the policies let it see of the registry: nothing without the claim of an enabled agent.
create function agent_uptime(period interval default interval '24 hours')
returns table (agent_id text, environment text, uptime double precision,
               online_seconds double precision, offline_seconds double precision)
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$
  select a.agent_id::text, a.environment::text, s.online / nullif(s.online + s.offline, 0), s.online, s.offline
  from postbell.agents a
  cross join lateral (
    select coalesce(sum(h.seconds) filter (where h.status = 'online'), 0) as online,
           coalesce(sum(h.seconds) filter (where h.status <> 'online'), 0) as offline
    from (
      select p.status,
             extract(epoch from least(p.until, now()) - greatest(p.since, now() - period))::double precision as seconds
      from postbell.presence_history p
      where p.agent_id = a.agent_id and p.until > now() - period
    ) h
  ) s
  where case current_setting('role', true)
          when 'anon' then false
          when 'authenticated' then exists (
            select from postbell.agents me
            where me.agent_id
              = nullif(current_setting('request.jwt.claims', true), '')::jsonb -> 'app_metadata' ->> 'agent_id')
          else true
        end
  order by a.agent_id
$$;
-- Supabase's default privileges grant each new function to its roles.
do $$
declare api text;
begin
  revoke all on function agent_uptime(interval) from public;
  foreach api in array array['anon', 'authenticated', 'service_role'] loop
    if to_regrole(api) is not null then
      execute format('revoke all on function agent_uptime(interval) from %I', api);
    end if;
  end loop;
end $$;
