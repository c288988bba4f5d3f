-- Broadcasts whose last two recipients settled in the same instant on two brokers, or that nobody was there for:
-- an hour later none has a delivery left, so they are processed. At most $1 at once. Called by
-- src/store/reap.rs. Uses the index on created_at and deliveries_message. Without WITH, which a table with a rule does not take.
update agent_messages set status = 'processed', processed_at = now()
where message_id = any (array(
  select m.message_id from agent_messages m
  where coalesce(m.to_agent_id, m.to_group) is null and m.created_at < now() - interval '1 hour'
    and coalesce(m.status, 'pending') in ('pending', 'delivered')
    and not exists (select from postbell.deliveries d where d.message_id = m.message_id offset 0)
    and not exists (select from postbell.set_aside s where s.message_id = m.message_id offset 0)
  limit $1::bigint
  for no key update skip locked))
