-- Escalates alerts that nobody acknowledged in time: one message to the topic alerts.escalated, and one to each orchestrator
-- that did not subscribe to it. Says how many, and in how many milliseconds the next is due. One broker takes an entry from the
-- queue, once; an alert that was acknowledged meanwhile is only taken. The message of an alert of more than 64 kB, unpacked, has
-- only the alert's names: writing some of 60 MB takes longer than anybody waits.
-- The parts of this statement stand in alerts_whom.sql and alerts_tell.sql too, for tables with a rule: a shared function would
-- be a migration.
-- Called by src/store/alerts.rs. Uses escalations_raised, and the primary key of agent_alerts; reads agent_registry for alerts
-- that are due.
-- $1 unacknowledged_ms bigint
-- $2 alerts_max bigint
with due as (
  delete from postbell.escalations e
  where e.alert_id = any (array(
    select q.alert_id from postbell.escalations q
    where q.raised_at <= now() - $1::bigint * interval '1 millisecond'
    order by q.raised_at, q.alert_id limit $2::bigint
    for update skip locked))
  returning e.alert_id
), escalated as (
  update agent_alerts a set escalated_at = now()
  from due where a.alert_id = any (array[due.alert_id]) and a.status = 'active'
  returning a.*
), told as (
  insert into agent_messages (from_agent_id, to_agent_id, topic, message_type, payload, priority, status)
  select e.agent_id, t.agent_id, 'alerts.escalated', 'alert', s.said, postbell.alert_priority(e.severity), 'pending'
  from escalated e
  cross join lateral (
    select case
             when pg_column_size(e) <= 65536 and coalesce(pg_column_size(e.details #> '{}'), 0) <= 65536 then to_jsonb(e)
             else jsonb_build_object(
               'alert_id', e.alert_id, 'agent_id', left(e.agent_id, 1000), 'alert_type', left(e.alert_type, 1000),
               'severity', left(e.severity, 1000), 'message', left(e.message, 1000), 'status', e.status,
               'created_at', e.created_at, 'escalated_at', e.escalated_at, 'cut_short', true)
           end as said
    offset 0
  ) s
  cross join lateral (
    select null::text as agent_id
    union all
    select o.agent_id from agent_registry o
    where 'orchestrator' in (lower(o.role), lower(o.agent_type)) and o.enabled is not false
      and o.agent_id <> e.agent_id
      and not exists (select from postbell.subscriptions s
                      where s.agent_id = o.agent_id
                        and s.pattern = any (postbell.topic_patterns('alerts.escalated')))
  ) t
)
select (select count(*) from escalated) as escalated,
       (select ceil(extract(epoch from min(raised_at) - now()) * 1000)::bigint + $1::bigint
        from postbell.escalations where raised_at > now() - $1::bigint * interval '1 millisecond') as next_ms
