-- The dead letter of a delivery, or those of a message: one row for each recipient that the message died for.
-- Called by src/store/dead.rs, which reads the payloads by payload.sql. Uses the primary keys and deliveries_message.
-- $1 delivery bigint: or null
-- $2 message uuid: or null
select d.delivery_id, d.message_id, d.inbox, d.priority, d.attempt, d.last_error as reason,
       d.dead_at,
       substr(textsend(m.from_agent_id::text), 1, 65536) as from_agent_id, substr(textsend(m.message_type::text), 1, 65536) as message_type,
       m.created_at,
       m.expires_at,
       substr(textsend(m.correlation_id::text), 1, 65536) as correlation_id,
       substr(textsend(m.dedupe_key::text), 1, 65536) as dedupe_key
from postbell.deliveries d
-- A message that cannot be read is shown by what its delivery says.
left join lateral (
  select * from agent_messages m where m.message_id = d.message_id and postbell.is_readable(d.message_id) offset 0
) m on true
where d.state = 'dead' and (d.delivery_id = $1::bigint or d.message_id = $2::uuid)
order by d.delivery_id
