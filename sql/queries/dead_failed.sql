-- Marks broadcasts failed that have no delivery any more. A statement of its own, since a rule may be on agent_messages.
-- Called by src/store/dead/ruled.rs. Uses the primary key of agent_messages and deliveries_message.
-- $1 messages uuid[]
-- $2 reasons text[]: one a message
update agent_messages m
set status = 'failed', error_message = p.reason
from unnest($1::uuid[], $2::text[]) as p (message_id, reason)
where m.message_id = any (array[p.message_id]) and coalesce(m.to_agent_id, m.to_group) is null
  and m.status is distinct from 'processed'
  and not exists (select from postbell.deliveries d where d.message_id = p.message_id offset 0)
