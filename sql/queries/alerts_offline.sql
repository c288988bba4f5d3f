-- Raises one alert for each agent that left without a goodbye and stayed away too long: critical for an orchestrator, high for
-- others. Says how many, and in how many milliseconds the next is due. The row of the absence is locked and keeps the alert's
-- id, so one of several brokers raises the alert, and the absence's end is the alert's end (triggers/presence.sql).
-- Called by src/store/alerts.rs. Uses presence_history_untold.
-- $1 away_ms bigint
-- $2 alerts_max bigint
-- $3 except_spans bigint[]: absences that wait apart
with due as (
  select postbell.uuid_v7() as alert_id, h.span_id, h.agent_id, h.since, h.reason, r.environment, r.last_heartbeat,
         'orchestrator' in (lower(r.role), lower(r.agent_type)) as leads
  from postbell.presence_history h
  cross join lateral (
    select r.* from agent_registry r
    where r.agent_id = any (array[h.agent_id]) and r.status = 'offline' and r.enabled is not false
    offset 0
  ) r
  where h.until = 'infinity' and h.alert_id is null and h.reason in ('disconnected', 'silent', 'broker_gone')
    and h.since <= now() - $1::bigint * interval '1 millisecond' and h.span_id <> all ($3::bigint[])
  order by h.since limit $2::bigint
  for update of h skip locked
), raised as (
  insert into agent_alerts (alert_id, agent_id, alert_type, severity, message, details, status, created_at)
  select d.alert_id, d.agent_id, 'agent_offline', case when d.leads then 'critical' else 'high' end,
         d.agent_id || ' (' || coalesce(d.environment, 'nowhere') || ') is offline: '
           || case d.reason when 'silent' then 'it says nothing any more'
                            when 'broker_gone' then 'its broker is gone, and it came to no other'
                            else 'its connection ended without a goodbye' end,
         jsonb_build_object('reason', d.reason, 'since', d.since, 'environment', d.environment,
                            'last_heartbeat', d.last_heartbeat),
         'active', now()
  from due d
), told as (
  update postbell.presence_history h set alert_id = due.alert_id
  from due where h.span_id = any (array[due.span_id])
  returning h.span_id
)
select (select count(*) from told) as raised,
       (select ceil(extract(epoch from min(since) - now()) * 1000)::bigint + $1::bigint
        from postbell.presence_history
        where until = 'infinity' and alert_id is null and reason in ('disconnected', 'silent', 'broker_gone')
          and since > now() - $1::bigint * interval '1 millisecond') as next_ms
