-- Alerts: the mesh's table, created where it is missing, otherwise adopted; that it can be was checked before
-- (sql/queries/adoption_faults.sql).

do $$
begin
  if to_regclass('agent_alerts') is not null then
    return;
  end if;
  create table agent_alerts (
    alert_id        uuid primary key default postbell.uuid_v7(),
    agent_id        text not null,
    alert_type      text not null,
    severity        text not null check (severity in ('low', 'medium', 'high', 'critical')),
    message         text not null,
    details         jsonb default '{}',
    status          text default 'active' check (status in ('active', 'acknowledged', 'resolved')),
    created_at      timestamptz default now(),
    acknowledged_at timestamptz,
    resolved_at     timestamptz,
    resolved_by     text
  );
  create index agent_alerts_created_at on agent_alerts (created_at);
  alter table agent_alerts enable row level security;
end $$;
alter table agent_alerts
  -- When the orchestrators were told that nobody had acknowledged it.
  add column if not exists escalated_at timestamptz;

-- What the triggers may write of the user's tables, bound to them in whatever schema they live.
create view postbell.alerts as
  select alert_id, status, resolved_at, resolved_by from agent_alerts;
create view postbell.outbox as
  select from_agent_id, topic, message_type, payload, priority from agent_messages;

-- Alerts that somebody has to acknowledge yet: written by triggers/alerts.sql, taken when they are due. A queue of its own,
-- so that looking costs nothing while it is empty, and alerts from before this version are left alone.
create table postbell.escalations (
  alert_id  uuid primary key,
  raised_at timestamptz not null default now()
);
create index escalations_raised on postbell.escalations (raised_at);
revoke all on postbell.escalations from public;
revoke all on postbell.alerts, postbell.outbox from public;

-- How urgent an alert's message is, 1 the highest. A mesh may have severities of its own.
create function postbell.alert_priority(severity text) returns integer
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select case lower(severity) when 'critical' then 1 when 'high' then 3 when 'low' then 7 else 5 end
$$;
revoke all on function postbell.alert_priority(text) from public;

-- The topic of an alert's message: a severity that could not be one token is made one.
create function postbell.alert_topic(severity text) returns text
language sql immutable set search_path = pg_catalog, pg_temp
as $$
  select 'alerts.' || coalesce(nullif(left(regexp_replace(lower(severity), '[^a-z0-9_-]', '_', 'g'), 64), ''), 'other')
$$;
revoke all on function postbell.alert_topic(text) from public;
