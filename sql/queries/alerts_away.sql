-- The absences that are to become alerts, locked: an id for the alert of each, and in how many milliseconds the next is due.
-- alerts_offline.sql finds and raises them at once where no rule of the user's is on agent_alerts.
-- Called by src/store/alerts/ruled.rs. Uses presence_history_untold.
-- $1 away_ms bigint
-- $2 alerts_max bigint
-- $3 except_spans bigint[]: absences that wait apart
with due as materialized (
  select postbell.uuid_v7() as alert_id, h.span_id
  from postbell.presence_history h
  cross join lateral (
    select from agent_registry r
    where r.agent_id = any (array[h.agent_id]) and r.status = 'offline' and r.enabled is not false
    offset 0
  ) r
  where h.until = 'infinity' and h.alert_id is null and h.reason in ('disconnected', 'silent', 'broker_gone')
    and h.since <= now() - $1::bigint * interval '1 millisecond' and h.span_id <> all ($3::bigint[])
  order by h.since limit $2::bigint
  for update of h skip locked
)
select (select coalesce(array_agg(alert_id order by span_id), '{}') from due) as alerts,
       (select coalesce(array_agg(span_id order by span_id), '{}') from due) as spans,
       (select ceil(extract(epoch from min(since) - now()) * 1000)::bigint + $1::bigint
        from postbell.presence_history
        where until = 'infinity' and alert_id is null and reason in ('disconnected', 'silent', 'broker_gone')
          and since > now() - $1::bigint * interval '1 millisecond') as next_ms
