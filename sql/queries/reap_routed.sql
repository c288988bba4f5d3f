-- Forgets that messages to many were routed, once they are over.
-- Called by src/store/reap.rs. Walks broadcasts, which holds messages that are not over and the last ten minutes; uses the
-- primary key of agent_messages.
-- $1 rows_max bigint
with over as (
  select b.message_id from postbell.broadcasts b
  where not exists (select from agent_messages m
                    where m.message_id = b.message_id and coalesce(m.status, 'pending') in ('pending', 'delivered') offset 0)
  limit $1::bigint
)
delete from postbell.broadcasts b using over where b.message_id = any (array[over.message_id])
