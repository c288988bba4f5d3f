-- Messages that expired while nobody was there to take them, at most $1 at once. What is with an agent is marked
-- delivered within a second and left alone; $2 milliseconds of grace cover that second.
-- Called by src/store/reap.rs. Uses agent_messages_expires and deliveries_message.
with late as (
  select message_id from agent_messages m
  where expires_at is not null and expires_at < now() - $2::bigint * interval '1 millisecond'
    and coalesce(status, 'pending') = 'pending'
    -- Its outcome waits there.
    and not exists (select from postbell.set_aside s where s.message_id = m.message_id offset 0)
  limit $1::bigint
  for no key update skip locked
), removed as (
  delete from postbell.deliveries d using late where d.message_id = any (array[late.message_id]) and d.state <> 'dead'
), marked as (
  update agent_messages m set status = 'failed', error_message = 'expired before it was delivered'
  from late where m.message_id = any (array[late.message_id])
  returning m.message_id
)
select count(*) from marked
