-- Counts the messages of late by sender and recipient; a message to many has no recipient.
-- Called by src/store/status.rs while somebody watches. Uses the index on created_at (agent_messages_created_at, or the adopted
-- table's own) from its end.
-- $1 messages_max bigint: the newest
-- $2 seconds bigint: how far to look back
select coalesce(substr(textsend(m.from_agent_id::text), 1, 256), '') as from_agent_id, substr(textsend(m.to_agent_id::text), 1, 256) as to_agent_id,
       substr(textsend(coalesce(m.topic::text, m.to_environment::text, m.to_group::text)), 1, 256) as many, count(*) as messages,
       count(*) filter (where m.status = 'failed') as failed
from (
  select from_agent_id, to_agent_id, topic, to_environment, to_group, status from agent_messages
  where created_at > now() - $2::bigint * interval '1 second'
  order by created_at desc limit $1::bigint
) m
group by 1, 2, 3
order by 4 desc
limit 500
