-- Marks broadcasts processed that have no delivery left after an hour: the last two recipients settled in the same instant on two
-- brokers, or nobody was there for them.
-- A table with a rule takes no WITH, so there is none.
-- Called by src/store/reap.rs. Uses the index on created_at and deliveries_message.
-- $1 rows_max bigint
update agent_messages set status = 'processed', processed_at = now()
where message_id = any (array(
  select m.message_id from agent_messages m
  where coalesce(m.to_agent_id, m.to_group) is null and m.created_at < now() - interval '1 hour'
    and coalesce(m.status, 'pending') in ('pending', 'delivered')
    and not exists (select from postbell.deliveries d where d.message_id = m.message_id offset 0)
    and not exists (select from postbell.set_aside s where s.message_id = m.message_id offset 0)
  limit $1::bigint
  for no key update skip locked))
