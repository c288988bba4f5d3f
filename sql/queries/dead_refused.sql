-- Why agent_messages does not take what redriving ('pending') or purging ('failed') a dead letter writes: $1 the delivery, $2 the
-- status. Called by src/store/dead/batch.rs, which rolls back whatever it writes. Uses the primary key.
select postbell.write_outcome(d.message_id, $2::text, null) as why
from postbell.deliveries d
where d.delivery_id = any (array[$1::bigint])
