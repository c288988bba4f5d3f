-- The last messages from and to an agent, the newest first, with the rest of their deliveries. Texts are cut as bytes: text that
-- is not UTF-8 has no characters. An index by agent would be paid for by every insert; so waiting messages are found by
-- deliveries_lane, dead ones by deliveries_dead, and done ones among the newest by the index on created_at.
-- Called by src/store/status/messages.rs when somebody opens an agent, which reads the payloads by payload.sql. Uses those
-- indexes, then agent_messages_pkey and deliveries_message.
-- $1 agent text
-- $2 rows_max bigint
-- $3 newest_max bigint: how many of the newest messages are looked at
with chosen as (
  (select n.message_id
   from (select message_id, from_agent_id, to_agent_id, created_at from agent_messages
         order by created_at desc limit $3::bigint) n
   where n.from_agent_id = $1::text or n.to_agent_id = $1::text
   order by n.created_at desc limit $2::bigint)
  union
  (select message_id from postbell.deliveries
   where inbox = any (array[$1::text]) and state = 'ready' order by inbox, priority, delivery_id limit $2::bigint)
  union
  (select message_id from postbell.deliveries
   where inbox = any (array[$1::text]) and state = 'dead' order by inbox desc, delivery_id desc limit $2::bigint)
)
select m.message_id, substr(textsend(m.from_agent_id::text), 1, 256) as from_agent_id, substr(textsend(m.to_agent_id::text), 1, 256) as to_agent_id,
       substr(textsend(coalesce(m.topic::text, m.to_environment::text, m.to_group::text)), 1, 256) as many, substr(textsend(m.message_type::text), 1, 256) as message_type,
       m.priority::bigint as priority, substr(textsend(m.status::text), 1, 256) as status, m.created_at, m.delivered_at, m.processed_at, m.deliver_at,
       substr(textsend(m.error_message::text), 1, 1000) as error_message, clock_timestamp() as read_at,
       d.delivery_id, d.state::text as state, d.attempt, d.due_at, d.dead_at, substr(textsend(d.last_error), 1, 1000) as last_error,
       d.open
from chosen c
cross join lateral (
  select * from agent_messages m where m.message_id = c.message_id and postbell.is_readable(c.message_id) offset 0
) m
left join lateral (
  select d.*, count(*) over () as open from postbell.deliveries d where d.message_id = c.message_id
  order by d.inbox = $1::text desc, d.delivery_id limit 1
) d on true
order by m.created_at desc nulls last, m.message_id desc
limit $2::bigint
