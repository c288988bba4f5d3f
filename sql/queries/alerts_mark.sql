-- Writes when these alerts are escalated, if nobody acknowledged them meanwhile.
-- Called by src/store/alerts/ruled.rs. Uses the primary key of agent_alerts.
-- $1 alerts uuid[]
update agent_alerts a set escalated_at = now() where a.alert_id = any ($1::uuid[]) and a.status = 'active'
