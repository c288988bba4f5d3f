-- Deletes messages that ended longer ago than retention keeps them. Dead letters keep theirs: their delivery is still there.
-- Called by src/store/reap/older.rs. Uses the index on created_at (agent_messages_created_at, or the adopted table's own) and
-- deliveries_message.
-- $1 kept_seconds bigint
-- $2 rows_max bigint
with old as (
  select message_id from agent_messages m
  where m.created_at < now() - $1::bigint * interval '1 second'
    and m.status in ('processed', 'failed')
    and coalesce(m.processed_at, m.created_at) < now() - $1::bigint * interval '1 second'
    and not exists (select from postbell.deliveries d where d.message_id = m.message_id offset 0)
  order by m.created_at limit $2::bigint
  for update skip locked
)
delete from agent_messages m using old where m.message_id = any (array[old.message_id])
