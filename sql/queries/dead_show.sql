-- Dead letters with their payloads: $1 a delivery, or $2 a message (then one row for each recipient it died for).
-- Called by src/postgres/dead.rs. Uses the primary keys and deliveries_message.
select d.delivery_id, d.message_id, d.inbox, d.priority, d.attempt, d.last_error as reason,
       d.dead_at,
       coalesce(m.from_agent_id, '') as from_agent_id, coalesce(m.message_type, '') as message_type,
       m.created_at,
       m.expires_at,
       m.correlation_id, m.dedupe_key, m.headers::text as headers, m.payload::text as payload
from postbell.deliveries d
join agent_messages m on m.message_id = d.message_id
where d.state = 'dead' and (d.delivery_id = $1::bigint or d.message_id = $2::uuid)
order by d.delivery_id
