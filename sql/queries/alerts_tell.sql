-- Inserts the messages of escalated alerts, as alerts_escalate.sql does it.
-- Called by src/store/alerts/ruled.rs. Uses the primary key of agent_alerts.
-- $1 messages uuid[]
-- $2 alerts uuid[]
-- $3 recipients text[]: null for the topic
insert into agent_messages (message_id, from_agent_id, to_agent_id, topic, message_type, payload, priority, status)
select w.message_id, e.agent_id, w.agent_id, 'alerts.escalated', 'alert', s.said, postbell.alert_priority(e.severity), 'pending'
from unnest($1::uuid[], $2::uuid[], $3::text[]) as w (message_id, alert_id, agent_id)
join agent_alerts e on e.alert_id = w.alert_id
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
