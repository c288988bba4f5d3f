-- Postpones the alert that is first in the queue and due: it comes again after as long. Gives its id.
-- Called by src/store/alerts.rs, for an alert that cannot be told. Uses escalations_raised.
-- $1 unacknowledged_ms bigint
update postbell.escalations e set raised_at = now()
where e.alert_id = any (array(
  select q.alert_id from postbell.escalations q
  where q.raised_at <= now() - $1::bigint * interval '1 millisecond'
  order by q.raised_at, q.alert_id limit 1
  for update skip locked))
returning e.alert_id
