-- The dead letters of an inbox, the oldest first, for an agent that asks. Texts are cut, so that a page is bounded whatever SQL
-- wrote. They are cut as bytes, since text that is not UTF-8 has no characters to count.
-- Called by src/store/dead/page.rs, which reads their payloads by payload.sql. Uses deliveries_dead from the delivery on, and
-- agent_messages' primary key.
-- $1 inbox text
-- $2 after bigint: the last delivery of the page before
-- $3 rows_max bigint
select d.delivery_id, d.message_id, d.inbox, d.priority, d.attempt, substr(textsend(d.last_error), 1, 1000) as reason, d.dead_at,
       substr(textsend(m.from_agent_id::text), 1, 256) as from_agent_id, substr(textsend(m.message_type::text), 1, 256) as message_type,
       m.created_at
from (
  -- The array keeps the inbox a part of the order, which the primary key cannot give.
  select * from postbell.deliveries
  where state = 'dead' and inbox = any (array[$1::text]) and delivery_id > $2::bigint
  order by inbox, delivery_id
  limit $3::bigint
) d
cross join lateral (select * from agent_messages m where m.message_id = d.message_id offset 0) m
