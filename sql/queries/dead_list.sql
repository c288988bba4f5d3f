-- Dead letters, the newest delivery first.
-- Called by src/store/dead.rs. Uses deliveries_dead, of one inbox or whole, and agent_messages' primary key. `+ 0` keeps
-- the planner from walking the primary key backwards instead, past every delivery that is not dead.
-- $1 inbox text: only of this one; null for any
-- $2 reason text: only with this text in the reason; null for any
-- $3 before bigint: only deliveries before this one, the last of the page before; null for all
-- $4 rows_max bigint
select d.delivery_id, d.message_id, d.inbox, d.priority, d.attempt, d.last_error as reason,
       d.dead_at,
       substr(textsend(m.from_agent_id::text), 1, 256) as from_agent_id, substr(textsend(m.message_type::text), 1, 256) as message_type,
       m.created_at
from (
  select * from postbell.deliveries
  where state = 'dead'
    and ($1::text is null or inbox = $1)
    and ($2::text is null or strpos(last_error, $2) > 0)
    and delivery_id < coalesce($3::bigint, 9223372036854775807)
  order by delivery_id + 0 desc
  limit $4::bigint
) d
-- A message that cannot be read is shown by what its delivery says.
left join lateral (
  select * from agent_messages m where m.message_id = d.message_id and postbell.is_readable(d.message_id) offset 0
) m on true
order by d.delivery_id desc
