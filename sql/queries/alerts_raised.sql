-- Writes the alert of each absence, which is then raised no second time; says how many of the alerts are not there, since a rule
-- kept them out without an error.
-- Called by src/store/alerts/ruled.rs. Uses the primary keys of presence_history and agent_alerts.
-- $1 alerts uuid[]
-- $2 spans bigint[]
with told as (
  update postbell.presence_history h set alert_id = d.alert_id
  from unnest($1::uuid[], $2::bigint[]) as d (alert_id, span_id)
  where h.span_id = any (array[d.span_id])
)
select count(*) as kept_out
from unnest($1::uuid[]) as d (alert_id)
where not exists (select from agent_alerts a where a.alert_id = d.alert_id)
