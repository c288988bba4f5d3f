-- Whom these alerts are escalated to, as alerts_escalate.sql does it: a new message's id, the alert and the recipient (null: the
-- topic) of each message.
-- Called by src/store/alerts/ruled.rs. Uses the primary key of agent_alerts; reads agent_registry.
-- $1 alerts uuid[]
select postbell.uuid_v7() as message_id, e.alert_id, t.agent_id::text as agent_id
from agent_alerts e
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
where e.alert_id = any ($1::uuid[]) and e.status = 'active'
