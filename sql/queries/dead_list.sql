-- Dead letters, the newest delivery first: $1 only of this inbox, $2 only with this in the reason, $3 only deliveries
-- before this one (the last of the page before), $4 how many. Called by src/postgres/dead.rs. Uses deliveries_dead
-- backwards and agent_messages's primary key.
select d.delivery_id, d.message_id, d.inbox, d.priority, d.attempt, d.last_error as reason,
       d.dead_at,
       m.from_agent_id, m.message_type, m.created_at
from postbell.deliveries d
join agent_messages m on m.message_id = d.message_id
where d.state = 'dead'
  and ($1::text is null or d.inbox = $1)
  and ($2::text is null or strpos(d.last_error, $2) > 0)
  and d.delivery_id < coalesce($3::bigint, 9223372036854775807)
order by d.delivery_id desc
limit $4::bigint
