-- Messages to many that are over need not be known as routed any more: at most $1 at once. Called by src/store/reap.rs.
-- Walks broadcasts, which holds what is not over and the last ten minutes; uses the primary key of agent_messages.
with over as (
  select b.message_id from postbell.broadcasts b
  where not exists (select from agent_messages m
                    where m.message_id = b.message_id and coalesce(m.status, 'pending') in ('pending', 'delivered') offset 0)
  limit $1::bigint
)
delete from postbell.broadcasts b using over where b.message_id = any (array[over.message_id])
