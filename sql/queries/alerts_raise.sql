-- Inserts the alerts of absences, as alerts_offline.sql does it.
-- Called by src/store/alerts/ruled.rs. Uses the primary keys of presence_history and agent_registry.
-- $1 alerts uuid[]
-- $2 spans bigint[]
insert into agent_alerts (alert_id, agent_id, alert_type, severity, message, details, status, created_at)
select d.alert_id, h.agent_id, 'agent_offline',
       case when 'orchestrator' in (lower(r.role), lower(r.agent_type)) then 'critical' else 'high' end,
       h.agent_id || ' (' || coalesce(r.environment, 'nowhere') || ') is offline: '
         || case h.reason when 'silent' then 'it says nothing any more'
                          when 'broker_gone' then 'its broker is gone, and it came to no other'
                          else 'its connection ended without a goodbye' end,
       jsonb_build_object('reason', h.reason, 'since', h.since, 'environment', r.environment,
                          'last_heartbeat', r.last_heartbeat),
       'active', now()
from unnest($1::uuid[], $2::bigint[]) as d (alert_id, span_id)
join postbell.presence_history h on h.span_id = d.span_id
join agent_registry r on r.agent_id = h.agent_id
