-- Why agent_messages does not take the change that redriving or purging a dead letter makes.
-- Called by src/store/dead/batch.rs, which rolls back whatever the statement writes. Uses the primary key.
-- $1 delivery bigint
-- $2 status text: pending for redriving, failed for purging
select postbell.write_outcome(d.message_id, $2::text, null) as why
from postbell.deliveries d
where d.delivery_id = any (array[$1::bigint])
