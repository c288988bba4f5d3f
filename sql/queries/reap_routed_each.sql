-- Does the same as reap_routed.sql, after that statement failed: without messages that cannot be read.
-- Called by src/store/reap.rs. Uses the same index.
-- $1 rows_max bigint
with over as (
  select b.message_id from postbell.broadcasts b
  where postbell.is_readable(b.message_id)
    and not exists (select from agent_messages m
                    where m.message_id = b.message_id and coalesce(m.status, 'pending') in ('pending', 'delivered') offset 0)
  limit $1::bigint
)
delete from postbell.broadcasts b using over where b.message_id = any (array[over.message_id])
