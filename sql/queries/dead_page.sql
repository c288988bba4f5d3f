-- The dead letters of inbox $1, the oldest first, after delivery $2, at most $3, for an agent that asks. Called by
-- src/store/dead/page.rs, which reads their payloads by payload.sql. Uses deliveries_dead from the delivery on, and
-- agent_messages's primary key. Texts are cut, so that a page is bounded whatever SQL wrote; as bytes, since what is not
-- UTF-8 cannot be counted in characters.
select d.delivery_id, d.message_id, d.inbox, d.priority, d.attempt, substr(textsend(d.last_error), 1, 1000) as reason, d.dead_at,
       substr(textsend(m.from_agent_id), 1, 256) as from_agent_id, substr(textsend(m.message_type), 1, 256) as message_type,
       m.created_at
from (
  -- The array keeps the inbox a part of the order, which the primary key cannot give.
  select * from postbell.deliveries
  where state = 'dead' and inbox = any (array[$1::text]) and delivery_id > $2::bigint
  order by inbox, delivery_id
  limit $3::bigint
) d
cross join lateral (select * from agent_messages m where m.message_id = d.message_id offset 0) m
