-- The dead letters of inbox $1, the oldest first, after delivery $2, at most $3, for an agent that asks; payloads of at
-- most $4 bytes of text, the longer ones left out. Called by src/postgres/dead/page.rs. Uses deliveries_dead from the
-- delivery on, and agent_messages's primary key. Texts are cut, so that a page is bounded whatever SQL wrote. The stored
-- size keeps a large payload from being read only to be left out.
select d.delivery_id, d.message_id, d.inbox, d.priority, d.attempt, left(d.last_error, 1000) as reason, d.dead_at,
       left(m.from_agent_id, 256) as from_agent_id, left(m.message_type, 256) as message_type, m.created_at,
       case when octet_length(t.payload) <= $4::int then t.payload end as payload
from (
  -- The array keeps the inbox a part of the order, which the primary key cannot give.
  select * from postbell.deliveries
  where state = 'dead' and inbox = any (array[$1::text]) and delivery_id > $2::bigint
  order by inbox, delivery_id
  limit $3::bigint
) d
cross join lateral (select * from agent_messages m where m.message_id = d.message_id offset 0) m
cross join lateral (
  select case when pg_column_size(m.payload) <= 2 * $4::int then m.payload::text end as payload offset 0
) t
